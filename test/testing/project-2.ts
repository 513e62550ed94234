/** A later version of the tests' project. */
import { workflow } from "sporeflow/guest";

export const order = workflow("order", () => ({ status: "version 2", receipt: "" }));

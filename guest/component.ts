/**
 * Entry of the component: the exports of the WIT world. The build imports this module
 * before the user's, so that the globals are in place when user modules are evaluated.
 */
import { kernel } from "./activation.ts";
import { installGlobals } from "./globals.ts";

export { deliver, describe, drain } from "./activation.ts";

installGlobals(kernel);

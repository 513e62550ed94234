/** Guests that go out, and follow where they are sent. */
import { step, workflow } from "sporeflow/guest";

let attempts = 0;

const hop = step(
  "hop",
  async (url: string) => {
    attempts += 1;
    const response = await fetch(url);
    const location = response.headers.get("location");
    return { text: await response.text(), location };
  },
  { retries: 3, backoff: { initial: 1 } },
);

export const follow = workflow("follow", async (url: string) => {
  const first = await hop(url);
  return first.location === null ? first.text : (await hop(first.location)).text;
});

/** What a guest can make of a refusal. */
export const refused = workflow("refused", async (url: string) => {
  const [answer, error] = await hop.options({ catchErrors: true })(url);
  const { code, message } = (error ?? {}) as { code?: string; message?: string };
  return { answer, code, message, attempts };
});

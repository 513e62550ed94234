/** What the chaos test deploys: effects in a row, a mailbox, a register, a sleeper. */
import { actor, signal, sleep, step, workflow } from "sporeflow/guest";

const effect = step(
  "effect",
  async (url: string): Promise<string> => {
    const response = await fetch(url, { method: "POST" });
    if (!response.ok) throw new Error(`refused with ${response.status}`);
    return response.text();
  },
  { retries: 50, backoff: { initial: 50, factor: 1.5, jitter: 0.5 } },
);

/** One effect after the other, with naps between them; answers what the outside answered. */
export const errand = workflow("errand", async (url: string, count: number, napMs: number) => {
  const answers: string[] = [];
  for (let index = 0; index < count; index++) {
    answers.push(await effect(`${url}/${index}`));
    if (index % 2 === 1) await sleep(napMs);
  }
  return answers;
});

export interface Letter {
  readonly sender: string;
  readonly number: number;
}

/** Keeps every letter in the order of arrival, until it is told to stop. */
export const mailbox = workflow("mailbox", async () => {
  const letters: Letter[] = [];
  for (;;) {
    const letter = await signal<Letter | "stop">("letter");
    if (letter === "stop") return letters;
    letters.push(letter);
  }
});

export const Register = actor(
  "Register",
  class {
    value = 0;
    read(): number {
      return this.value;
    }
    write(value: number): number {
      const before = this.value;
      this.value = value;
      return before;
    }
    add(by: number): number {
      this.value += by;
      return this.value;
    }
    swap(from: number, to: number): number {
      const before = this.value;
      if (before === from) this.value = to;
      return before;
    }
  },
  { readonly: ["read"] },
);

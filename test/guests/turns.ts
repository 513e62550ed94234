/** An actor whose turns send, wait, remind and nest; test/build/turns.test.ts runs it in QuickJS. */
import { actor, context, remind, sleep } from "sporeflow/guest";

class Listener {
  heard: string[] = [];

  note(text: string): void {
    this.heard.push(text);
  }
}

const Listeners = actor("Listener", Listener);

class Speaker {
  log: string[] = [];

  static upgrade(old: { text: string }): { log: string[] } {
    return { log: old.text.split(" ") };
  }

  /** One message is held, the other is awaited. */
  async speak(how: string): Promise<string> {
    void Listeners.get("held").send.note("a");
    remind("again", { after: "1 h" }, this.speak, "well");
    await Listeners.get("awaited").send.note("b");
    await sleep("1 s");
    if (how === "badly") throw new RangeError("after all");
    this.log.push("spoke");
    return how;
  }

  within(text: string): string {
    this.log.push(text);
    return `${text} for ${context().caller}`;
  }
}

actor("Speaker", Speaker, { reentrant: true });

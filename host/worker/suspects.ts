/**
 * Finds the guest that the platform stops an object for. A Worker that computes for longer
 * than its CPU limit is ended without a word, with everything in it; started again, it would
 * run the same activation again, for ever. So an object that was lost at work notes before
 * each activation, durably, whose it is. Who was noted twice when the object was lost is
 * answered guest-timeout instead of being run. The engine then looks for the step that did it
 * (PROTOCOL part 1, faults); from there on the first loss is enough.
 *
 * An object that has never been lost at work notes nothing: then this costs nothing.
 */
import type { ActivateRequest, ActivateResult, Sandbox } from "../../runtime/ports.ts";
import type { ObjectState } from "./platform.ts";

const noteKey = "at work";
const convictedKey = "convicted";
const lossesMax = 2;
/**
 * A suspect waits this long before each activation: what the host decided meanwhile has to
 * be durable before the object may be lost once more, or it would decide the same for ever.
 */
const calmMs = 1_000;

interface Note {
  readonly machine: string;
  /** How often the object was lost with this machine noted. */
  readonly losses: number;
}

export class Suspects {
  readonly #storage: ObjectState["storage"];
  /** The machine that was noted when the object was lost last. */
  #suspect: Note | undefined;
  #convicted: string | undefined;
  #isCareful = false;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(storage: ObjectState["storage"]) {
    this.#storage = storage;
  }

  /**
   * Before anything is run. `wasLost`: the object didn't come to rest the last time. Gives
   * the machine that was at work then, if that is known.
   */
  async open(wasLost: boolean): Promise<Note | undefined> {
    const note = await this.#storage.get<Note>(noteKey);
    this.#convicted = await this.#storage.get<string>(convictedKey);
    this.#isCareful = wasLost || note !== undefined;
    if (note !== undefined) this.#suspect = { ...note, losses: note.losses + 1 };
    return this.#suspect;
  }

  /** The object came to rest. */
  async rest(): Promise<void> {
    if (!this.#isCareful) return;
    this.#isCareful = false;
    this.#suspect = undefined;
    this.#convicted = undefined;
    await this.#storage.delete(noteKey);
    await this.#storage.delete(convictedKey);
  }

  /** The same sandbox, which notes what it runs while there is a suspicion. */
  sandbox(sandbox: Sandbox): Sandbox {
    return {
      prepare: (source) => sandbox.prepare(source),
      load: (id, bytes) => sandbox.load(id, bytes),
      isLoaded: (id) => sandbox.isLoaded(id),
      activate: (request) => {
        if (!this.#isCareful) return sandbox.activate(request);
        // One at a time, so that the note is of the one that runs.
        const result = this.#turn.then(() => this.#noted(request, sandbox));
        this.#turn = result.catch(() => undefined); // the caller gets it
        return result;
      },
      release: (machine) => sandbox.release(machine),
      close: () => sandbox.close(),
    };
  }

  async #noted(request: ActivateRequest, sandbox: Sandbox): Promise<ActivateResult> {
    const { machine } = request;
    const losses = this.#suspect?.machine === machine ? this.#suspect.losses : 0;
    if (losses >= (this.#convicted === machine ? 1 : lossesMax)) {
      this.#suspect = undefined;
      this.#convicted = machine;
      sandbox.release(machine);
      await this.#storage.put(convictedKey, machine);
      await this.#storage.delete(noteKey);
      const message = "the guest ran for longer than the Worker's CPU limit";
      return { kind: "fault", fault: "guest-timeout", message };
    }
    if (losses > 0 || this.#convicted === machine) {
      await new Promise((resolve) => setTimeout(resolve, calmMs));
    }
    await this.#storage.put(noteKey, { machine, losses } satisfies Note);
    await this.#storage.sync();
    const result = await sandbox.activate(request);
    await this.#storage.delete(noteKey);
    return result;
  }
}

/**
 * The promise of a message that a turn sends: `other.send.note()`, `start(…)`. It is held
 * until the turn saves its state, unless somebody awaits it: then it leaves at once,
 * because nothing else can give the awaiting code an answer.
 */
export class Message<Value> extends Promise<Value> {
  #leave: (() => void) | undefined;

  /** What `then` makes is a plain promise: it has nothing to send. */
  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  /** `awaited` is called whenever somebody listens. */
  static held<Value>(
    executor: (resolve: (value: Value) => void, reject: (error: unknown) => void) => void,
    awaited: () => void,
  ): Message<Value> {
    const message = new Message<Value>(executor);
    message.#leave = awaited;
    return message;
  }

  // biome-ignore lint/suspicious/noThenProperty: the point is to see who awaits
  override then<Then = Value, Otherwise = never>(
    onValue?: ((value: Value) => Then | PromiseLike<Then>) | null,
    onError?: ((error: unknown) => Otherwise | PromiseLike<Otherwise>) | null,
  ): Promise<Then | Otherwise> {
    this.#leave?.();
    return super.then(onValue, onError);
  }
}

/**
 * A run's history as server-sent events. Pulled, so a slow reader holds back only itself;
 * comments keep proxies from closing a quiet stream; ends when the run's events end.
 */
import type { HistoryEvent } from "../../runtime/index.ts";
import type { AbortSignalLike, Cancel, Clock } from "../../runtime/ports.ts";

export interface EventStreamOptions {
  readonly events: (signal: AbortSignalLike) => AsyncIterable<HistoryEvent>;
  readonly clock: Clock;
  readonly heartbeatMs: number;
  /** One line of text. */
  readonly write: (event: HistoryEvent) => string;
  readonly onError: (error: unknown) => object;
}

export function eventStream(options: EventStreamOptions): ReadableStream<Uint8Array<ArrayBuffer>> {
  const abort = new AbortController();
  const encoder = new TextEncoder();
  const iterator = options.events(abort.signal)[Symbol.asyncIterator]();
  let cancelBeat: Cancel | undefined;
  return new ReadableStream(
    {
      start(controller) {
        controller.enqueue(encoder.encode("retry: 1000\n\n"));
        const beat = (): void => {
          // Only when the reader has taken everything: comments must not pile up.
          if ((controller.desiredSize ?? 0) > 0) controller.enqueue(encoder.encode(": alive\n\n"));
          cancelBeat = options.clock.after(options.heartbeatMs, beat);
        };
        cancelBeat = options.clock.after(options.heartbeatMs, beat);
      },
      async pull(controller) {
        try {
          const next = await iterator.next();
          if (abort.signal.aborted) return;
          if (next.done !== true) {
            const { index, type } = next.value;
            const text = `id: ${index}\nevent: ${type}\ndata: ${options.write(next.value)}\n\n`;
            controller.enqueue(encoder.encode(text));
            return;
          }
        } catch (error) {
          const problem = JSON.stringify(options.onError(error));
          controller.enqueue(encoder.encode(`event: problem\ndata: ${problem}\n\n`));
        }
        cancelBeat?.();
        controller.close();
      },
      cancel() {
        cancelBeat?.();
        abort.abort();
        // Not awaited: a generator that still waits for an event answers only after it.
        iterator.return?.().catch(() => undefined);
      },
    },
    { highWaterMark: 1 },
  );
}

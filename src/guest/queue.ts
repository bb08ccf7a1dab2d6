/** Items on their way to one consumer. */
export interface Queue<T> extends AsyncIterable<T> {
  push(item: T, cost: number): void;
  /** No more items; what is there is still delivered. */
  end(): void;
  /** As `end`, but the consumer gets the error after the last item. */
  fail(error: Error): void;
  /** The consumer is gone: what comes is dropped. */
  discard(): void;
}

export interface QueueOptions {
  /** Cost from which the producer is held up. */
  highWater: number;
  onFull(): void;
  /** The producer may go on: the consumer has taken half, or is gone. */
  onDrain(): void;
  /** The consumer stopped before the end. */
  onReturn?(): void;
}

/** A queue with back-pressure. It may be iterated once. */
export function createQueue<T>(options: QueueOptions): Queue<T> {
  let items: { item: T; cost: number }[] = [];
  let head = 0;
  let cost = 0;
  let isFull = false;
  let isDiscarding = false;
  let isTaken = false;
  let end: { error?: Error } | undefined;
  let wake: (() => void) | undefined;

  function signal(): void {
    const w = wake;
    wake = undefined;
    w?.();
  }
  function drain(): void {
    if (!isFull) return;
    isFull = false;
    options.onDrain();
  }

  async function next(): Promise<IteratorResult<T, undefined>> {
    for (;;) {
      const entry = items[head];
      if (entry !== undefined) {
        head++;
        if (head === items.length || head === 1024) {
          items = items.slice(head);
          head = 0;
        }
        cost -= entry.cost;
        if (cost <= options.highWater / 2) drain();
        return { done: false, value: entry.item };
      }
      if (end?.error !== undefined && !isDiscarding) {
        const { error } = end;
        end = {};
        throw error;
      }
      if (end !== undefined || isDiscarding) return { done: true, value: undefined };
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  }

  const queue: Queue<T> = {
    push(item, itemCost) {
      if (isDiscarding || end !== undefined) return;
      items.push({ item, cost: itemCost });
      cost += itemCost;
      if (!isFull && cost >= options.highWater) {
        isFull = true;
        options.onFull();
      }
      signal();
    },
    end() {
      end ??= {};
      signal();
    },
    fail(error) {
      end ??= { error };
      signal();
    },
    discard() {
      isDiscarding = true;
      items = [];
      head = 0;
      cost = 0;
      drain();
      signal();
    },
    [Symbol.asyncIterator]() {
      if (isTaken) throw new TypeError("this stream can be read once");
      isTaken = true;
      return {
        next,
        return() {
          queue.discard();
          options.onReturn?.();
          return Promise.resolve({ done: true, value: undefined });
        },
      };
    },
  };
  return queue;
}

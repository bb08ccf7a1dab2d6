/** Runs tasks for one key one at a time, in order of arrival; different keys run side by side. */
export interface KeyedMutex {
  run<T>(key: string, task: () => Promise<T>): Promise<T>;
  /** Resolves once nothing runs or waits, tasks that arrive meanwhile included. */
  idle(): Promise<void>;
}

export function createKeyedMutex(): KeyedMutex {
  /** The last task of each key that has one; it never rejects. */
  const tails = new Map<string, Promise<void>>();
  return {
    run<T>(key: string, task: () => Promise<T>): Promise<T> {
      const mine = (tails.get(key) ?? Promise.resolve()).then(task);
      const tail = mine.then(
        () => {},
        () => {}, // a failed task must not block the next one
      );
      tails.set(key, tail);
      void tail.then(() => {
        if (tails.get(key) === tail) tails.delete(key);
      });
      return mine;
    },
    async idle() {
      while (tails.size > 0) await Promise.all(tails.values());
    },
  };
}

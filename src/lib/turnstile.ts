/** Lets a number of tasks run at a time; the others wait, in order of arrival. */
export interface Turnstile {
  run<T>(task: () => Promise<T>): Promise<T>;
}

export function createTurnstile(most: number): Turnstile {
  const waiting: (() => void)[] = [];
  let running = 0;
  return {
    async run(task) {
      if (running < most) running++;
      // Whoever leaves hands its place over, so nobody comes between.
      else await new Promise<void>((resolve) => waiting.push(resolve));
      try {
        return await task();
      } finally {
        const next = waiting.shift();
        if (next) next();
        else running--;
      }
    },
  };
}

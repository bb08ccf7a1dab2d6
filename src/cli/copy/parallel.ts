/** Files of one directory that travel at the same time. More gains nothing once a disk or a core is busy. */
const LANES = 8;

/** Runs the action for every item, a few at a time. The first failure stops the rest and is thrown. */
export async function inParallel<T>(items: readonly T[], action: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  let failed = false;
  const lane = async () => {
    while (next < items.length && !failed) {
      const item = items[next++] as T;
      try {
        await action(item);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const results = await Promise.allSettled(Array.from({ length: LANES }, lane));
  for (const result of results) {
    if (result.status === "rejected") throw result.reason;
  }
}

/**
 * Keeps the reason why reading bytes failed: it must reach the caller as such, and not as the failure of the work that it
 * ended.
 */
export function guarded(source: AsyncIterable<Uint8Array>) {
  let failure: { error: unknown } | undefined;
  return {
    get failure() {
      return failure;
    },
    bytes: (async function* () {
      try {
        yield* source;
      } catch (error) {
        failure = { error };
        throw error;
      }
    })(),
    async during<T>(work: Promise<T>): Promise<T> {
      try {
        return await work;
      } catch (error) {
        throw failure ? failure.error : error;
      }
    },
  };
}

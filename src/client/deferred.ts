import type { WarrenError } from "../contracts/errors.ts";

/** A promise and its two ends. Nobody has to listen for its rejection. */
export function deferred<T>() {
  let resolve: (value: T) => void = () => undefined;
  let reject: (error: WarrenError) => void = () => undefined;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  promise.catch(() => undefined);
  return { promise, resolve, reject };
}

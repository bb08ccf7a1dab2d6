/** Of what is waited for, in tests that are known to wait in vain. */
const HURRIED_MS = 5_000;
let isHurried = false;

/** Runs a test that is known to fail: what it waits for is waited for less long. */
export async function hurried<T>(body: () => Promise<T>): Promise<T> {
  isHurried = true;
  try {
    return await body();
  } finally {
    isHurried = false;
  }
}

/** Asks again and again until the answer is truthy, and gives it back. Throws with `what` after `patienceMs`. */
export async function eventually<T>(
  what: string,
  ask: () => Promise<T> | T,
  patienceMs = 20_000,
): Promise<Exclude<T, undefined | null | false | 0 | "">> {
  const timeoutMs = isHurried ? Math.min(patienceMs, HURRIED_MS) : patienceMs;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer) return answer as Exclude<T, undefined | null | false | 0 | "">;
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/**
 * What a command that is ended at its timeout has said. A busy machine may leave it no time to say anything: then it gets more, until
 * `enough` accepts the outcome.
 */
export async function longEnough<T>(
  attempt: (timeoutMs: number) => Promise<T>,
  enough: (outcome: T) => boolean,
): Promise<T> {
  for (let timeoutMs = 300; ; timeoutMs *= 3) {
    const outcome = await attempt(timeoutMs);
    if (enough(outcome) || timeoutMs > 5_000) return outcome;
  }
}

/** The value, or an error when it takes longer: for what must end in bounded time. */
export async function within<T>(timeoutMs: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

import type { ImageEvent, ImageInfo, ImageProgress } from "../contracts/images.ts";

/** Lines that wait for a client at most; of a client that is slower than its build, the oldest are left out. */
const MOST_LINES = 1000;
/** Layers that wait. A registry may name as many as it likes. */
const MOST_LAYERS = 1000;
/** Progress that comes faster than a person can see is told together, the last of each layer. */
const GATHER_MS = 100;

/** What a call tells of its progress, as events, and the image as the last. The call is not held up by a slow client. */
export async function* progressEvents(
  call: (onProgress: (progress: ImageProgress) => void) => Promise<ImageInfo>,
): AsyncGenerator<ImageEvent> {
  const waiting = createBacklog();
  let wake = () => {};
  let outcome: { image: ImageInfo } | { error: unknown } | undefined;
  void call((progress) => {
    if (outcome) return;
    waiting.add(progress);
    wake();
  })
    .then(
      (image) => {
        outcome = { image };
      },
      (error: unknown) => {
        outcome = { error };
      },
    )
    .then(() => wake());
  while (true) {
    yield* waiting.take();
    if (waiting.size > 0) continue;
    if (outcome) break;
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
    if (!outcome) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, GATHER_MS);
        wake = () => {
          if (!outcome) return;
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
  if ("error" in outcome) throw outcome.error;
  yield outcome;
}

function createBacklog() {
  let lines: string[] = [];
  let left = 0;
  let layers = new Map<string, ImageProgress>();
  return {
    get size() {
      return lines.length + layers.size;
    },
    add(progress: ImageProgress): void {
      if (!("line" in progress)) {
        if (layers.has(progress.layer) || layers.size < MOST_LAYERS) layers.set(progress.layer, progress);
        return;
      }
      lines.push(progress.line);
      if (lines.length > MOST_LINES) {
        lines.shift();
        left++;
      }
    },
    take(): ImageProgress[] {
      const taken: ImageProgress[] = [
        ...layers.values(),
        ...(left > 0 ? [{ line: `… ${left} lines are left out` }] : []),
        ...lines.map((line) => ({ line })),
      ];
      lines = [];
      left = 0;
      layers = new Map();
      return taken;
    },
  };
}

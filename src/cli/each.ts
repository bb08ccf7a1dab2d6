import { print } from "./output.ts";
import { EXIT_FAILURE, explain } from "./report.ts";

/**
 * Does the same to several things, side by side, and prints what comes of each in the order given. One that fails is
 * explained and does not keep the others from it; the exit code then is 1.
 */
export async function forEachNamed(
  ids: readonly string[],
  action: (id: string) => Promise<string>,
): Promise<void> {
  const results = await Promise.allSettled([...new Set(ids)].map((id) => action(id)));
  for (const result of results) {
    if (result.status === "fulfilled") {
      await print(result.value);
    } else {
      await explain(result.reason);
      process.exitCode = EXIT_FAILURE;
    }
  }
}

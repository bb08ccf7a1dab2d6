import { WarrenError } from "../../contracts/errors.ts";
import { lastWords } from "../../lib/last-words.ts";
import { nativeProgram } from "../../lib/native.ts";
import { run } from "../../lib/run.ts";
import type { ProcessId } from "./guest-process.ts";

/** What the guest's program answers when there are no rules that it could change. */
const NO_GUARD = 3;

/**
 * Puts other items in the place of those that a sandbox with open network has, in one step, for open connections too. Nobody
 * inside has the right to: our own program enters the sandbox's network namespace, and nothing else of it.
 * @throws WarrenError `unsupported`, `runtime_failed`; then the old ones hold
 */
export async function changeGuard(id: string, guest: ProcessId, items: readonly string[]): Promise<void> {
  const { code, stderr } = await run(nativeProgram("warren-guest"), [
    "--change-guard",
    String(guest.pid),
    String(guest.startTime),
    items.join(","),
  ]);
  if (code === 0) return;
  if (code === NO_GUARD) throw startedBefore(id);
  throw new WarrenError(
    "runtime_failed",
    `the network rules of sandbox ${id} can't be changed: ${lastWords(stderr)}`,
  );
}

/** Of one that knows nothing of rules that change. */
export function startedBefore(id: string): WarrenError {
  return new WarrenError(
    "unsupported",
    `sandbox ${id} was started by an earlier Warren, whose rules of open network don't change while it runs`,
    { hint: `stop it and start it again: warren stop ${id}, warren start ${id}` },
  );
}

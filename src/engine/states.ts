import { WarrenError } from "../contracts/errors.ts";
import type { SandboxStatus } from "../contracts/sandbox.ts";

export const sandboxStates = [
  "creating",
  "starting",
  "running",
  "paused",
  "stopping",
  "stopped",
  "removing",
  "error",
] as const;
export type SandboxState = (typeof sandboxStates)[number];

/** Every legal move. A removed sandbox has no record, so there is no state for it. */
export const nextStates: Record<SandboxState, readonly SandboxState[]> = {
  // To `error` only when a create that failed could not be undone.
  creating: ["running", "error"],
  // To `paused` when it was found so by the next engine, to `stopping` when that one found a start cut short.
  starting: ["running", "paused", "stopping", "stopped", "error", "removing"],
  // To `stopped` without `stopping` when it ended by itself.
  running: ["paused", "stopping", "stopped", "error", "removing"],
  paused: ["running", "stopping", "stopped", "error", "removing"],
  stopping: ["stopped", "error", "removing"],
  stopped: ["starting", "error", "removing"],
  // Back to `error` when the runtime could not remove it.
  removing: ["error"],
  // To `running` when a guest that was silent answers again, to `paused` when the next engine finds it so.
  error: ["starting", "running", "paused", "stopping", "removing"],
};

/** The one place that decides whether a move is legal. A refusal is a bug of the engine, not of its caller. */
export function checkMove(id: string, from: SandboxState, to: SandboxState): void {
  if (from !== to && !nextStates[from].includes(to)) {
    throw new WarrenError("internal", `sandbox ${id} can't go from ${from} to ${to}`);
  }
}

/** den's clients know four states, so a passing one shows as what the sandbox can do meanwhile. */
export const wireStatus: Record<SandboxState, SandboxStatus> = {
  creating: "creating",
  starting: "creating",
  running: "running",
  paused: "paused",
  stopping: "stopped",
  stopped: "stopped",
  removing: "stopped",
  error: "error",
};

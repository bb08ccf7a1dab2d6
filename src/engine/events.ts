import type { sandboxEventTypes } from "../contracts/events.ts";
import type { NetworkDecision } from "../contracts/network.ts";
import type { SandboxInfo } from "../contracts/sandbox.ts";
import type { SshSignature } from "../contracts/ssh-agent.ts";
import type { Logger } from "../lib/log.ts";

/** Told after the change is stored and done. */
export interface SandboxEvent {
  type: (typeof sandboxEventTypes)[number];
  /** Milliseconds since 1970. */
  at: number;
  sandbox: SandboxInfo;
  /** Of `network`: what was decided, once or `count` times more. */
  decision?: NetworkDecision;
  /** Of `signature`. */
  signature?: SshSignature;
}

export interface SandboxEvents {
  /** Listeners run in the order of the changes and must not block. Returns how to stop listening. */
  subscribe(listener: (event: SandboxEvent) => void): () => void;
}

export interface SandboxEventBus extends SandboxEvents {
  emit(event: SandboxEvent): void;
}

export function createEventBus(log: Logger): SandboxEventBus {
  const listeners = new Set<(event: SandboxEvent) => void>();
  return {
    subscribe(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    emit(event) {
      for (const listener of listeners) {
        try {
          listener(event);
        } catch (error) {
          // The change has happened: a listener's bug must not undo it.
          log.error({ err: error, type: event.type }, "a listener of sandbox events failed");
        }
      }
    },
  };
}

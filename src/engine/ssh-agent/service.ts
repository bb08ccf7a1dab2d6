import type { SshAgent, SshSignature } from "../../contracts/ssh-agent.ts";
import type { Core } from "../core.ts";
import { sandboxInfo } from "../info.ts";
import { SERVICE_DIR, type Service } from "../services/service.ts";
import { createWindow } from "../window.ts";
import { connectAgent } from "./agent-socket.ts";
import { serveAgent } from "./filter.ts";

/** Where a sandbox finds it. */
const SOCKET = `${SERVICE_DIR}/ssh-agent.sock`;
/** Equal signatures within this time are told as one and a number. */
const WINDOW_MS = 5_000;
/** Different ones that are told within that time: more than agents have keys. */
const MOST_IN_WINDOW = 100;

/** The user's SSH agent for programs of sandboxes that were made with it. */
export function createSshAgentService(core: Core): Service {
  return {
    name: "the SSH agent",
    number: 1,
    at: { path: SOCKET },
    isWanted: ({ request }) => request.ssh_agent !== undefined,
    environment: () => ({ SSH_AUTH_SOCK: SOCKET }),
    open({ id, request }) {
      const { socket, keys } = request.ssh_agent as SshAgent;
      const now = () => new Date(core.clock.now()).toISOString();
      const signatures = createWindow<SshSignature>({
        clock: core.clock,
        windowMs: WINDOW_MS,
        most: MOST_IN_WINDOW,
        tell: (signature, count) =>
          tell(core, id, count === undefined ? signature : { ...signature, at: now(), count }),
        tellBeyond: (allowed, count) =>
          tell(core, id, {
            key: "",
            allowed,
            reason: "of more different keys than are told",
            at: now(),
            count,
          }),
      });
      let complaint = "";
      return {
        async serve(program) {
          await serveAgent(program, {
            async connect() {
              try {
                const agent = await connectAgent(socket);
                complaint = "";
                return agent;
              } catch (error) {
                const { message } = error as Error;
                // A sandbox may try as often as it likes.
                if (message !== complaint) core.log.warn({ sandbox: id }, message);
                complaint = message;
                throw error;
              }
            },
            ...(keys ? { keys } : {}),
            onSignature: (signature) =>
              signatures.add(`${signature.key} ${signature.reason}`, { ...signature, at: now() }),
          });
        },
        close: signatures.flush,
      };
    },
  };
}

function tell(core: Core, id: string, signature: SshSignature): void {
  core.audit.write({ type: "signature", sandbox: id, ...signature });
  const record = core.table.get(id);
  if (!record) return;
  core.events.emit({ type: "signature", at: core.clock.now(), sandbox: sandboxInfo(record), signature });
}

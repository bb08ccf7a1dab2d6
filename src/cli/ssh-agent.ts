import { hostVariable } from "../app/config.ts";
import type { CreateSandbox } from "../contracts/sandbox.ts";
import { UsageError } from "./report.ts";

export interface SshAgentOptions {
  /** True: the one of SSH_AUTH_SOCK. */
  sshAgent?: string | true;
  sshAgentKey?: string[];
}

/** The SSH agent that a sandbox is to have. `isLocal`: the engine is on this machine, where the agent is. */
export function sshAgentRequest(
  { sshAgent, sshAgentKey: keys }: SshAgentOptions,
  isLocal: boolean,
): Pick<CreateSandbox, "ssh_agent"> {
  if (sshAgent === undefined) {
    if (keys) throw new UsageError("--ssh-agent-key says which keys of an agent", "add --ssh-agent");
    return {};
  }
  if (!isLocal) {
    throw new UsageError(
      "--ssh-agent is for this machine's engine: a server over TCP can't reach this machine's SSH agent",
    );
  }
  const socket = sshAgent === true ? hostVariable("SSH_AUTH_SOCK") : sshAgent;
  if (!socket)
    throw new UsageError("there is no SSH_AUTH_SOCK", "start an agent: eval $(ssh-agent); ssh-add");
  if (!socket.startsWith("/")) {
    throw new UsageError(
      `${JSON.stringify(socket)} is not the socket of an SSH agent, which is an absolute path`,
      "where --ssh-agent comes last, write -- before the command",
    );
  }
  return { ssh_agent: { socket, ...(keys ? { keys } : {}) } };
}

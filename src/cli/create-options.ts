import type { Command } from "commander";
import type { CreateSandbox } from "../contracts/sandbox.ts";
import { credentialsRequest, type GivenCredentials, parseCredentials } from "./credentials.ts";
import { parseMount, parseVolume, storageOf } from "./mounts.ts";
import { type NetworkOptions, networkRules } from "./network-rules.ts";
import {
  bytes,
  collect,
  expirySeconds,
  isolationLevel,
  nanoCpus,
  parseEnvironment,
  parseLabels,
  parseTmpfs,
  readEnvFile,
  wholeNumber,
} from "./options.ts";
import { parsePublish } from "./publish.ts";
import { secretsRequest } from "./secrets.ts";
import { type SshAgentOptions, sshAgentRequest } from "./ssh-agent.ts";

/** What a sandbox is to be: the options of every command that makes one. */
export interface CreateOptions extends NetworkOptions, SshAgentOptions {
  image?: string;
  name?: string;
  env?: string[];
  envFile?: string[];
  workdir?: string;
  user?: string;
  memory?: string;
  cpus?: string;
  pids?: string;
  unlimited?: boolean;
  timeout: string;
  readOnly?: boolean;
  tmpfs?: string[];
  volume?: string[];
  mount?: string[];
  label?: string[];
  secret?: string[];
  credentials?: string[];
  publish?: string[];
  runtime?: string;
  isolation?: string;
}

export function addCreateOptions(command: Command): Command {
  return command
    .option(
      "--image <image>",
      "`host`, a root filesystem directory or tar, or an image such as debian:12 (default: host)",
    )
    .option("--name <name>", "name, unique among sandboxes")
    .option(
      "-e, --env <NAME=value>",
      "environment variable; NAME alone passes on yours (repeatable)",
      collect,
    )
    .option("--env-file <file>", "file with a NAME=value on each line (repeatable)", collect)
    .option("-w, --workdir <path>", "working directory of commands; made if missing")
    .option("-u, --user <user>", "user of commands: name, uid or uid:gid")
    .option("-m, --memory <size>", "most memory, swap included, such as 512m")
    .option("--cpus <cores>", "most processor time, in cores, such as 1.5")
    .option("--pids <number>", "most processes and threads")
    .option("--unlimited", "no limits but those named here, instead of the engine's defaults")
    .option("--timeout <duration>", "time until it expires and is removed, such as 30m, or `never`", "never")
    .option("--read-only", "read-only root filesystem; /tmp, /run, /var/tmp and home can be written")
    .option(
      "--tmpfs <path:size>",
      "memory filesystem, such as /x:64m or /x:64m:ro,noexec (repeatable)",
      collect,
    )
    .option(
      "-v, --volume <src:dst[:ro]>",
      "volume by its name, or directory or file of the engine's machine by its path (repeatable)",
      collect,
    )
    .option(
      "--mount <type=...>",
      "the same for paths with colons: type=bind,source=/path,target=/path,readonly (repeatable)",
      collect,
    )
    .option("-l, --label <key=value>", "label (repeatable)", collect)
    .option(
      "--network <mode>",
      "none; filtered: what rules allow; open (or bridge): all but internal addresses; host: the machine's own, without isolation (default: none, or filtered with rules)",
    )
    .option(
      "--network-allow <rule>",
      "what it may reach, such as example.com:443, *.example.com or 10.0.0.0/8 (repeatable, or with commas)",
      collect,
    )
    .option("--network-deny <rule>", "what it may not reach, whatever is allowed (repeatable)", collect)
    .option(
      "-p, --publish <ports>",
      "reach a port inside through one of the engine's machine: 8080:80, 127.0.0.1:8080:80/udp, or 80 for one that is chosen; without an address on 127.0.0.1 (repeatable)",
      collect,
    )
    .option(
      "--network-preset <name>",
      "registries: of packages, as this machine is configured; dev: code hosts as well; project: registries that files in the current directory name (repeatable)",
      collect,
    )
    .option(
      "--network-learn",
      "allow everything but internal addresses, and say at the end which rules that takes",
    )
    .option(
      "--secret <secret>",
      "NAME=env:VAR|file:PATH|cmd:COMMAND,host=HOST, then ,bearer or ,header=NAME: {} or ,basic=USER: stays outside, and is added to requests to the host (repeatable)",
      collect,
    )
    .option(
      "--credentials <kind=source>",
      "aws=env|cmd:COMMAND|file:PATH, gcp=cmd:COMMAND|env:VAR|file:PATH[,project=ID][,account=EMAIL]: of a cloud, where its SDKs look for them inside (repeatable)",
      collect,
    )
    .option(
      "--ssh-agent [socket]",
      "have programs inside sign with this machine's SSH agent, and change nothing of it; its socket is that of $SSH_AUTH_SOCK unless named",
    )
    .option(
      "--ssh-agent-key <fingerprint>",
      "with this key of it only, such as SHA256:… as ssh-add -l prints it (repeatable)",
      collect,
    )
    .option("--runtime <name>", "runtime driver (default: the engine's)")
    .option(
      "--isolation <level>",
      "container, or gvisor: a kernel of its own in user space (default: container)",
    );
}

/** `isLocal`: the engine is on this machine, so that relative paths mean something to it. */
export function createRequest(
  options: CreateOptions,
  isLocal: boolean,
  credentials: readonly GivenCredentials[] = parseCredentials(options.credentials ?? []),
): CreateSandbox {
  const env = parseEnvironment([...(options.envFile ?? []).flatMap(readEnvFile), ...(options.env ?? [])]);
  const storage = storageRequest(options, isLocal);
  const { allow: hosts, ...secrets } = secretsRequest(options.secret);
  const rules = networkRules(
    hosts.length === 0 ? options : { ...options, networkAllow: [...(options.networkAllow ?? []), ...hosts] },
  );
  return {
    // A developer's sandbox must not vanish over lunch, so the server's default expiry is not used.
    timeout: expirySeconds(options.timeout),
    ...(options.image === undefined ? {} : { image: options.image }),
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(Object.keys(env).length === 0 ? {} : { env }),
    ...(options.workdir === undefined ? {} : { workdir: options.workdir }),
    ...(options.user === undefined ? {} : { user: options.user }),
    ...(options.memory === undefined ? {} : { memory: bytes(options.memory) }),
    ...(options.cpus === undefined ? {} : { cpu: nanoCpus(options.cpus) }),
    ...(options.pids === undefined ? {} : { pid_limit: wholeNumber(options.pids) }),
    ...(options.unlimited ? { unlimited: true } : {}),
    ...(options.readOnly ? { readonly_fs: true } : {}),
    ...(storage === undefined ? {} : { storage }),
    ...(options.label === undefined ? {} : { labels: parseLabels(options.label) }),
    ...(options.network === undefined ? {} : { network_mode: options.network }),
    ...(options.publish === undefined ? {} : { ports: options.publish.map(parsePublish) }),
    ...(rules === undefined ? {} : { network: rules }),
    ...secrets,
    ...credentialsRequest(credentials),
    ...sshAgentRequest(options, isLocal),
    ...(options.runtime === undefined ? {} : { runtime: options.runtime }),
    ...(options.isolation === undefined ? {} : { isolation: isolationLevel(options.isolation) }),
  };
}

function storageRequest(
  { volume = [], mount = [], tmpfs }: CreateOptions,
  isLocal: boolean,
): CreateSandbox["storage"] {
  const mounts = [...volume.map(parseVolume), ...mount.map(parseMount)];
  if (mounts.length === 0 && tmpfs === undefined) return undefined;
  return { ...(tmpfs === undefined ? {} : { tmpfs: tmpfs.map(parseTmpfs) }), ...storageOf(mounts, isLocal) };
}

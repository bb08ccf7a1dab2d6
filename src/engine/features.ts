import type { Runtimes } from "./runtimes.ts";

/** Tokens of what this server does, one of them for each runtime that is not known to be unusable. */
export function featuresWith({ names, trouble }: Runtimes): string[] {
  return [...features, ...names.filter((name) => !trouble(name)).map((name) => `runtime:${name}`)];
}

/** Tokens by which a client learns what this server can: den's own first, then what Warren adds. */
const features: readonly string[] = [
  "network_mode",
  "start",
  "file_stat",
  "sandbox_ip",
  "writable_rootfs",
  "extend",
  "pause",
  "update",
  "images",
  "volumes",
  "snapshots",
  "binds",
  "ports",
  "prune",
  "wait",
  "logs",
  "names",
  "labels",
  "cmd",
  "pid_limit",
  "readonly_fs",
  "isolation",
  "exec_user",
  "exec_stdin",
  "exec_tty",
  "exec_signal",
  "exec_binary",
  "exec_timeout",
  "exec_resume",
  "file_rename",
  "file_chmod",
  "file_watch",
  "file_range",
  "ssh_agent",
  "credentials",
];

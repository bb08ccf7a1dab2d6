// Values that the browser-safe client needs at run time: this file imports nothing, so that zod stays out of its bundle.

/** No expiry on den's wire: Go's zero time. */
export const NO_EXPIRY = "0001-01-01T00:00:00Z";

/** What stands between a sandbox and the host's kernel: nothing but its own checks, or gVisor's kernel in user space. */
export const isolations = ["container", "gvisor"] as const;

/** Clouds whose credentials a sandbox can have. */
export const credentialKinds = ["aws", "gcp"] as const;

/** Signals that a client may send, with Linux's numbers (the same on x86-64 and arm64). */
export const signals = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGABRT: 6,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGUSR2: 12,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
  SIGCHLD: 17,
  SIGCONT: 18,
  SIGSTOP: 19,
  SIGTSTP: 20,
  SIGTTIN: 21,
  SIGTTOU: 22,
  SIGWINCH: 28,
} as const;
export type SignalName = keyof typeof signals;

/** First byte of a binary frame of an exec stream. */
export const execChannels = { stdin: 0, stdout: 1, stderr: 2 } as const;

/** What a frame of a resumable exec stream costs the side that keeps it, beside its bytes. */
export const EXEC_FRAME_COST = 256;

/** Close code of a client that leaves a connection which it takes for dead, and comes back to its command on another. */
export const EXEC_CLOSE_RETURNING = 4000;

/** Where a sandbox with filtered network reaches its proxy: a port of 127.0.0.1, HTTP and SOCKS5. */
export const EGRESS_PROXY_PORT = 3128;
/** Where connections of programs that know no proxy arrive instead of where they went to, inside; the next port has their DNS. */
export const EGRESS_CAPTURE_PORT = 3129;
/** Where a sandbox with cloud credentials asks for them: a port of 127.0.0.1, in every network but `host`. */
export const CREDENTIALS_PORT = 3131;
/** All that are taken for filtered network. */
export const egressPorts: readonly number[] = [
  EGRESS_PROXY_PORT,
  EGRESS_CAPTURE_PORT,
  EGRESS_CAPTURE_PORT + 1,
];

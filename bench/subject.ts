/** One way to run things in isolation, driven as its users drive it. */
export interface Subject {
  readonly name: string;
  /** Takes about a second for each box: it takes part in fewer rounds. */
  readonly isSlow: boolean;
  /** Why it can't be measured here; undefined when it can. */
  unavailable(): Promise<string | undefined>;
  /** Once, before anything is timed. `rootfs` is a directory with a static busybox as its only program. */
  prepare(rootfs: string, scratch: string): Promise<void>;
  /** A new box, up to the first bytes of stdout of `echo` in it. The box stays. */
  create(): Promise<Box>;
  close(): Promise<void>;
}

export interface Box {
  exec(argv: string[]): Promise<void>;
  write(path: string, bytes: Uint8Array): Promise<void>;
  /** Resolves with the number of bytes that came. */
  read(path: string): Promise<number>;
  destroy(): Promise<void>;
}

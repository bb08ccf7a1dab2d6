/** One way to run things in isolation, driven as its users drive it. */
export interface Subject {
  readonly name: string;
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
  /** Only where the subject has a file API. */
  write?(path: string, bytes: Uint8Array): Promise<void>;
  read?(path: string): Promise<number>;
  destroy(): Promise<void>;
}

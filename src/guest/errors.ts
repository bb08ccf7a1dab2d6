import { type ErrorCode, WarrenError } from "../contracts/errors.ts";
import { readPayload } from "./reader.ts";

/** Linux's numbers: the guest is Linux, wherever the host is. */
export const linuxErrno = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  E2BIG: 7,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  ENAMETOOLONG: 36,
  ENOTEMPTY: 39,
  EUSERS: 87,
  ELOOP: 40,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EDQUOT: 122,
} as const;

type Meaning = readonly [code: ErrorCode, sentence: string, hint?: string];

const descriptorHint = "end programs inside that hold many files open or watch many directories (inotify)";
const startHint = "raise the sandbox's pid_limit or memory, or end some of its processes";

/** How a failed call reads: "<subject>: <sentence>". */
const meanings: Readonly<Record<number, Meaning>> = {
  [linuxErrno.EPERM]: ["permission_denied", "the operation is not permitted"],
  [linuxErrno.ENOENT]: ["file_not_found", "no such file or directory"],
  [linuxErrno.ESRCH]: ["invalid_request", "the sandbox has no such user or group"],
  [linuxErrno.E2BIG]: ["too_large", "too large"],
  [linuxErrno.EAGAIN]: ["guest_failed", "the sandbox can't start another process", startHint],
  [linuxErrno.ENOMEM]: ["guest_failed", "the sandbox is out of memory", startHint],
  [linuxErrno.EACCES]: ["permission_denied", "permission denied"],
  [linuxErrno.EBUSY]: ["permission_denied", "it is in use, for instance as a mount point"],
  [linuxErrno.EEXIST]: ["file_exists", "it exists already"],
  [linuxErrno.EXDEV]: [
    "unsupported",
    "source and target are on different filesystems",
    "copy it and remove the source, as `mv` inside the sandbox does",
  ],
  [linuxErrno.ENOTDIR]: ["not_a_directory", "not a directory"],
  [linuxErrno.EISDIR]: ["not_a_file", "it is a directory"],
  [linuxErrno.EINVAL]: ["invalid_request", "the operation can't be done with it"],
  [linuxErrno.ENFILE]: ["guest_failed", "the host's limit of open files is reached", descriptorHint],
  [linuxErrno.EMFILE]: [
    "guest_failed",
    "the sandbox's limit of open files or of inotify instances is reached",
    descriptorHint,
  ],
  [linuxErrno.EFBIG]: ["too_large", "the file is too large"],
  [linuxErrno.ENOSPC]: ["no_space", "no space is left in the sandbox"],
  [linuxErrno.EROFS]: ["permission_denied", "it is on a read-only file system"],
  [linuxErrno.ENAMETOOLONG]: ["invalid_path", "the path or a name in it is too long"],
  [linuxErrno.ENOTEMPTY]: ["directory_not_empty", "the directory is not empty"],
  [linuxErrno.EUSERS]: [
    "guest_failed",
    "the sandbox has as many connections as it can have",
    "end some of them",
  ],
  [linuxErrno.ELOOP]: ["invalid_path", "the path leads through too many links, or through one of /proc's"],
  [linuxErrno.EOPNOTSUPP]: ["unsupported", "its filesystem can't do that"],
  [linuxErrno.EADDRINUSE]: ["port_in_use", "a program inside listens there", "end it"],
  [linuxErrno.ETIMEDOUT]: ["deadline_exceeded", "no answer in time"],
  [linuxErrno.ECONNREFUSED]: ["port_unreachable", "nothing listens there", "start the server inside first"],
  [linuxErrno.EDQUOT]: ["no_space", "the sandbox's disk quota is used up"],
};

export type ErrnoOverrides = Readonly<Record<number, Meaning>>;

/** For reading and writing files: what is there is of another kind. */
export const notAFile: ErrnoOverrides = {
  [linuxErrno.EISDIR]: ["not_a_file", "it is a directory"],
  [linuxErrno.EINVAL]: ["not_a_file", "it is no regular file"],
};

/** The WarrenError for an errno from inside. `subject` is what the call was about, such as a path. */
export function errnoError(errno: number, subject: string, overrides: ErrnoOverrides = {}): WarrenError {
  const [code, sentence, hint] = overrides[errno] ??
    meanings[errno] ?? ["guest_failed", `failed with error number ${errno}`];
  return new WarrenError(code, `${subject}: ${sentence}`, hint === undefined ? {} : { hint });
}

/** Parses an ERROR frame. `what` is the guest's text: shortened, and without control characters. */
export function parseError(payload: Buffer): { errno: number; what: string } {
  const r = readPayload(payload);
  const errno = r.u32();
  const text = r.str().toString("utf8");
  r.end();
  return { errno, what: text.slice(0, 1024).replaceAll(/\p{Cc}/gu, "?") };
}

export function guestGone(cause?: unknown): WarrenError {
  return new WarrenError("guest_failed", "the sandbox's guest closed the connection before it had answered", {
    hint: "see whether the sandbox still runs; its process limit or memory may be used up",
    ...(cause === undefined ? {} : { cause }),
  });
}

export function guestSilent(afterMs: number): WarrenError {
  return new WarrenError("guest_failed", `the sandbox's guest did not answer within ${afterMs / 1000} s`, {
    hint: "stop and start the sandbox",
  });
}

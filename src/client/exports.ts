// What both entries of the client export beside `Sandbox`, whose default server differs.
export type * from "../contracts/api.ts";
export { execChannels, NO_EXPIRY, type SignalName, signals } from "../contracts/constants.ts";
export { type ErrorCode, errorCatalogue, WarrenError } from "../contracts/errors.ts";
export type * from "../contracts/events.ts";
export type * from "../contracts/exec.ts";
export type * from "../contracts/files.ts";
export type * from "../contracts/images.ts";
export type * from "../contracts/logs.ts";
export type * from "../contracts/network.ts";
export type * from "../contracts/ports.ts";
export type * from "../contracts/sandbox.ts";
export type * from "../contracts/snapshots.ts";
export type * from "../contracts/volumes.ts";
export { type ClientOptions, createClient } from "./client.ts";
export {
  CommandFailed,
  CommandResult,
  type ExecOptions,
  RunningCommand,
  type StreamOptions,
} from "./command.ts";
export { SandboxFiles } from "./files.ts";
export {
  type ConnectOptions,
  type CreateOptions,
  type HandleOptions,
  type SandboxEntry,
  SandboxHandle,
  type UpdateOptions,
} from "./sandbox.ts";
export type * from "./transport.ts";

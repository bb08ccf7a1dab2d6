/**
 * The closed vocabulary of failures. A code is for programs, a sentence for people, a hint for whoever must
 * act. Status and retryability are looked up here, never decided where the error is thrown.
 */
export const errorCatalogue = {
  invalid_request: { status: 400, retryable: false },
  invalid_path: { status: 400, retryable: false },
  unsupported: { status: 400, retryable: false },
  unauthenticated: { status: 401, retryable: false },
  forbidden: { status: 403, retryable: false },
  sandbox_not_found: { status: 404, retryable: false },
  image_not_found: { status: 404, retryable: false },
  snapshot_not_found: { status: 404, retryable: false },
  volume_not_found: { status: 404, retryable: false },
  secret_not_found: { status: 404, retryable: false },
  credentials_not_found: { status: 404, retryable: false },
  file_not_found: { status: 404, retryable: false },
  exec_session_not_found: { status: 404, retryable: false },
  port_not_found: { status: 404, retryable: false },
  route_not_found: { status: 404, retryable: false },
  method_not_allowed: { status: 405, retryable: false },
  sandbox_wrong_state: { status: 409, retryable: false },
  in_use: { status: 409, retryable: false },
  name_taken: { status: 409, retryable: false },
  port_in_use: { status: 409, retryable: false },
  file_exists: { status: 409, retryable: false },
  not_a_file: { status: 409, retryable: false },
  not_a_directory: { status: 409, retryable: false },
  directory_not_empty: { status: 409, retryable: false },
  permission_denied: { status: 403, retryable: false },
  engine_locked: { status: 409, retryable: true },
  too_large: { status: 413, retryable: false },
  too_many_sandboxes: { status: 429, retryable: true },
  rate_limited: { status: 429, retryable: true },
  cancelled: { status: 499, retryable: false },
  internal: { status: 500, retryable: false },
  image_invalid: { status: 400, retryable: false },
  image_build_failed: { status: 400, retryable: false },
  image_pull_failed: { status: 502, retryable: true },
  port_unreachable: { status: 502, retryable: true },
  guest_failed: { status: 502, retryable: true },
  runtime_failed: { status: 502, retryable: true },
  runtime_unavailable: { status: 503, retryable: true },
  engine_unavailable: { status: 503, retryable: true },
  shutting_down: { status: 503, retryable: true },
  host_under_pressure: { status: 503, retryable: true },
  deadline_exceeded: { status: 504, retryable: true },
  no_space: { status: 507, retryable: false },
} as const satisfies Record<string, { status: number; retryable: boolean }>;

export type ErrorCode = keyof typeof errorCatalogue;

export interface ErrorDetails {
  /** What to do next, as one sentence or a command. */
  hint?: string;
  /** The error underneath, for whoever must debug. Never sent to a client. */
  cause?: unknown;
}

/** Every failure that crosses a layer is one of these. */
export class WarrenError extends Error {
  override readonly name = "WarrenError";
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.hint = details.hint;
  }

  /** HTTP status of this code. */
  get status(): number {
    return errorCatalogue[this.code].status;
  }

  /** True when the same call may succeed later without a change. */
  get retryable(): boolean {
    return errorCatalogue[this.code].retryable;
  }
}

/** The error body on the wire. `error` is den's field and stays a plain sentence. */
export interface ErrorBody {
  error: string;
  code: ErrorCode;
  hint?: string;
}

export function errorBody(error: WarrenError): ErrorBody {
  return {
    error: error.message,
    code: error.code,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
  };
}

export function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === "string" && Object.hasOwn(errorCatalogue, code);
}

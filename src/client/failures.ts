import { type ErrorCode, isErrorCode, WarrenError } from "../contracts/errors.ts";
import type { TransportResponse } from "./transport.ts";

/** An error body beyond this is not one of ours. */
const MAX_ERROR_BYTES = 64 * 1024;

/** The failure that a response tells. */
export async function responseError(response: TransportResponse): Promise<WarrenError> {
  const body = parseObject(await readText(response.body, MAX_ERROR_BYTES).catch(() => ""));
  const { error, code, hint } = body;
  return new WarrenError(
    isErrorCode(code) ? code : codeOf(response.status),
    typeof error === "string" ? error : `the server answered with status ${response.status}`,
    typeof hint === "string" ? { hint } : {},
  );
}

/** No answer, and it is sure that the server has done nothing. */
export class NotReached extends WarrenError {}

/**
 * The failure of a call that got no answer, or whose answer broke off. `isUnasked`: the server can't have known what is
 * asked; that it was not even connected to is seen here.
 */
export function transportError(
  cause: unknown,
  where: string,
  signal?: AbortSignal,
  isUnasked = (cause as { syscall?: unknown } | undefined)?.syscall === "connect",
): WarrenError {
  if (cause instanceof WarrenError) return cause;
  if (signal?.aborted) {
    return signal.reason instanceof WarrenError
      ? signal.reason
      : new WarrenError("cancelled", "the call was given up", { cause: signal.reason });
  }
  return new (isUnasked ? NotReached : WarrenError)("engine_unavailable", `no answer from ${where}`, {
    cause,
    hint: "check that the server runs (`warren serve`) and that the URL is right",
  });
}

/** The failure that an `error` frame of an exec stream tells. */
export function errorOfFrame({ data, code, hint }: Record<string, unknown>): WarrenError {
  return new WarrenError(
    isErrorCode(code) ? code : "internal",
    typeof data === "string" ? data : "the stream failed",
    typeof hint === "string" ? { hint } : {},
  );
}

/** Text of at most `maxBytes`; what is beyond is an error. */
export async function readText(
  body: AsyncIterable<Uint8Array>,
  maxBytes = Number.POSITIVE_INFINITY,
): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  let total = 0;
  for await (const chunk of body) {
    total += chunk.length;
    if (total > maxBytes) throw new WarrenError("too_large", `the answer is larger than ${maxBytes} bytes`);
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}

/** A JSON object, or an empty one for anything else. */
export function parseObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

/** For servers that send no code, such as den, and for proxies in between. */
function codeOf(status: number): ErrorCode {
  const codes: Record<number, ErrorCode> = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "sandbox_not_found",
    405: "method_not_allowed",
    409: "sandbox_wrong_state",
    413: "too_large",
    429: "rate_limited",
    501: "unsupported",
    502: "engine_unavailable",
    503: "engine_unavailable",
    504: "deadline_exceeded",
  };
  return codes[status] ?? "internal";
}

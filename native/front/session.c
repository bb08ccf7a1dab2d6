// One command over one WebSocket (RFC 6455) on the engine's Unix socket. Our frames are masked with zeros, which is no mask: masks keep
// proxies from taking frames for requests, and here there is none.
#include "front.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
  MAX_HEAD = 16 << 10,
  IN_BYTES = 128 << 10,
  MAX_CONTROL = 64 << 10, // of a frame that is read as a whole
  STDIN_PIECE = 32 << 10,
  PIPE_PIECE = 4096, // PIPE_BUF: what poll() says a pipe takes at once
  EXIT_FAILURE_OF_OURS = 125,
  EXIT_BROKEN_PIPE = 141,
};
enum opcode { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum channel { STDIN = 0, STDERR = 2 };

static const struct {
  int number;
  const char *name;
} forwarded[] = {
  {SIGINT, "SIGINT"}, {SIGTERM, "SIGTERM"}, {SIGHUP, "SIGHUP"}, {SIGQUIT, "SIGQUIT"}, {SIGUSR1, "SIGUSR1"}, {SIGUSR2, "SIGUSR2"},
};

static struct {
  int fd, signals;
  enum { HEAD, ASKED, RUNNING, OVER } state;
  struct end end;
  char in[IN_BYTES];
  size_t in_start, in_end;
  size_t output_left; // of a frame with output that has begun
  int output_fd;
  struct text out;
  size_t out_sent;
  bool reads_stdin;
  int interrupts;
} s;

static void finish(enum end_kind kind, int code, const char *frame, size_t bytes) {
  s.state = OVER;
  s.end.kind = kind;
  s.end.code = code;
  s.end.frame = frame != NULL ? strndup(frame, bytes) : NULL;
}

// ---- what we send

static void send_frame(enum opcode opcode, const char *first, size_t first_bytes, const char *payload, size_t bytes) {
  size_t all = first_bytes + bytes;
  unsigned char head[14] = {(unsigned char)(0x80 | opcode)};
  size_t count = 2;
  if (all < 126) head[1] = (unsigned char)(0x80 | all);
  else {
    size_t width = all <= UINT16_MAX ? 2 : 8;
    head[1] = 0x80 | (width == 2 ? 126 : 127);
    for (size_t i = 0; i < width; i++) head[2 + i] = (unsigned char)((uint64_t)all >> 8 * (width - 1 - i));
    count += width;
  }
  count += 4; // the mask
  add(&s.out, (const char *)head, count);
  add(&s.out, first, first_bytes);
  add(&s.out, payload, bytes);
}

static void send_text(const char *text) {
  send_frame(TEXT, NULL, 0, text, strlen(text));
}

static void send_signal(const char *name) {
  char frame[64];
  snprintf(frame, sizeof frame, "{\"type\":\"signal\",\"signal\":\"%s\"}", name);
  send_text(frame);
}

static void lose(void) {
  if (s.state == HEAD) finish(END_UNTOUCHED, 0, NULL, 0);
  else finish(END_SAY, 0, NULL, 0);
}

static void flush(void) {
  ssize_t n = send(s.fd, s.out.at + s.out_sent, s.out.bytes - s.out_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
  // What the server said last is still to be read.
  if (n < 0 && errno != EAGAIN && errno != EINTR) s.out_sent = s.out.bytes;
  if (n > 0) s.out_sent += (size_t)n;
  if (s.out_sent == s.out.bytes) s.out.bytes = s.out_sent = 0;
}

static void read_stdin(void) {
  static char piece[STDIN_PIECE];
  ssize_t n = read(STDIN_FILENO, piece, sizeof piece);
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (n > 0) {
    send_frame(BINARY, (const char[]){STDIN}, 1, piece, (size_t)n);
  } else {
    s.reads_stdin = false;
    send_text("{\"type\":\"eof\"}");
  }
}

static void on_signal(void) {
  struct signalfd_siginfo info;
  if (read(s.signals, &info, sizeof info) != (ssize_t)sizeof info) return;
  int number = (int)info.ssi_signo;
  if (number == SIGINT) s.interrupts++;
  // The connection's end kills the command. Before it runs, or at the second ^C, that is what is wanted.
  if (s.state != RUNNING || s.interrupts > 1) {
    finish(END_CODE, 128 + number, NULL, 0);
    return;
  }
  for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++)
    if (forwarded[i].number == number) send_signal(forwarded[i].name);
}

// ---- what the server sends

static void on_text(const char *text, size_t bytes) {
  const char *value;
  size_t count;
  if (json_is(text, bytes, "type", "started")) {
    s.state = RUNNING;
  } else if (json_is(text, bytes, "type", "exit") && json_find(text, bytes, "data", &value, &count)) {
    bool says = json_find(text, bytes, "timed_out", &value, &count) || json_find(text, bytes, "oom_killed", &value, &count) ||
                json_find(text, bytes, "denied", &value, &count);
    json_find(text, bytes, "data", &value, &count);
    finish(says ? END_SAY : END_CODE, atoi(value), text, bytes);
  } else if (json_is(text, bytes, "type", "error")) {
    bool leaves = s.state == ASKED && json_is(text, bytes, "code", "shutting_down");
    finish(leaves ? END_UNTOUCHED : END_SAY, 0, text, bytes);
  }
}

/// Writes some of the output that is there. False: nothing more can be done now.
static bool pass_output(void) {
  size_t here = s.in_end - s.in_start;
  size_t count = here < s.output_left ? here : s.output_left;
  struct stat status;
  bool is_file = fstat(s.output_fd, &status) == 0 && S_ISREG(status.st_mode);
  if (count == 0) return false;
  if (!is_file && count > PIPE_PIECE) count = PIPE_PIECE;
  struct pollfd ready = {.fd = s.output_fd, .events = POLLOUT};
  if (!is_file && poll(&ready, 1, 0) == 0) return false;
  ssize_t n = write(s.output_fd, s.in + s.in_start, count);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n < 0) {
    if (errno != EPIPE) fprintf(stderr, "error: output can't be written: %s\n", strerror(errno));
    finish(END_CODE, errno == EPIPE ? EXIT_BROKEN_PIPE : EXIT_FAILURE_OF_OURS, NULL, 0);
    return false;
  }
  s.in_start += (size_t)n;
  s.output_left -= (size_t)n;
  return true;
}

/// Takes the next frame, or the beginning of one with output. False: more has to come first.
static bool take_frame(void) {
  const unsigned char *at = (const unsigned char *)s.in + s.in_start;
  size_t here = s.in_end - s.in_start, head = 2;
  if (here < head) return false;
  uint64_t bytes = at[1] & 0x7f;
  size_t width = bytes == 126 ? 2 : bytes == 127 ? 8 : 0;
  head += width;
  if (here < head) return false;
  if (width > 0) bytes = 0;
  for (size_t i = 0; i < width; i++) bytes = bytes << 8 | at[2 + i];
  enum opcode opcode = at[0] & 0x0f;
  bool is_whole = (at[0] & 0xf0) == 0x80 && (at[1] & 0x80) == 0;
  if (!is_whole || (opcode == BINARY ? bytes == 0 || bytes > INT32_MAX : bytes > MAX_CONTROL)) {
    lose();
    return false;
  }
  if (here < head + (opcode == BINARY ? 1 : bytes)) return false;
  s.in_start += head;
  const char *payload = s.in + s.in_start;
  if (opcode == BINARY) {
    if (s.state == ASKED) s.state = RUNNING;
    s.output_fd = *payload == STDERR ? STDERR_FILENO : STDOUT_FILENO;
    s.output_left = (size_t)bytes - 1;
    s.in_start++;
    return true;
  }
  s.in_start += (size_t)bytes;
  if (opcode == TEXT) on_text(payload, (size_t)bytes);
  else if (opcode == PING) send_frame(PONG, NULL, 0, payload, (size_t)bytes);
  else if (opcode == CLOSE) lose();
  return true;
}

/// The end of the answer to our request. False: it has not come, or is anything but yes; then the CLI finds out what it is.
static bool take_head(const struct request *r) {
  char *begin = s.in + s.in_start;
  char *end = memmem(begin, s.in_end - s.in_start, "\r\n\r\n", 4);
  if (end == NULL) {
    if (s.in_end > MAX_HEAD) lose();
    return false;
  }
  end[2] = '\0';
  if (strncmp(begin, "HTTP/1.1 101 ", 13) != 0 || strcasestr(begin, "\r\nsec-websocket-protocol: warren.v1\r\n") == NULL) {
    lose();
    return false;
  }
  s.in_start += (size_t)(end + 4 - begin);
  s.state = ASKED;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  s.end.since_ms = now.tv_sec * 1000LL + now.tv_nsec / 1000000;
  send_frame(TEXT, NULL, 0, r->start.at, r->start.bytes);
  return true;
}

static void take_all(const struct request *r) {
  bool more = true;
  while (more && s.state != OVER) {
    if (s.state == HEAD) more = take_head(r);
    else if (s.output_left > 0) more = pass_output();
    else more = take_frame();
  }
  if (s.in_start == s.in_end) s.in_start = s.in_end = 0;
}

static void receive(void) {
  if (s.in_start > 0) {
    memmove(s.in, s.in + s.in_start, s.in_end - s.in_start);
    s.in_end -= s.in_start;
    s.in_start = 0;
  }
  ssize_t n = recv(s.fd, s.in + s.in_end, sizeof s.in - s.in_end, MSG_DONTWAIT);
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) lose();
  else if (n > 0) s.in_end += (size_t)n;
}

// ---- the session

static bool begin(const struct request *r) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, r->socket, sizeof r->socket);
  s.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (s.fd < 0 || connect(s.fd, (struct sockaddr *)&address, sizeof address) != 0) return false;
  add_str(&s.out, "GET /api/v1/sandboxes/");
  add_str(&s.out, r->id);
  add_str(&s.out, "/exec/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                  "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: d2FycmVuLWxvY2FsLXdzLg==\r\n"
                  "Sec-WebSocket-Protocol: warren.v1\r\n\r\n");
  s.reads_stdin = r->interactive;
  return true;
}

static void turn(const struct request *r) {
  bool sends = s.out.bytes > 0, holds = s.output_left > 0 && s.in_start < s.in_end;
  bool asks = s.reads_stdin && s.state == RUNNING && !sends;
  struct pollfd p[4] = {
    // While output is held nothing is read, and that the server has gone is no news.
    {.fd = sends || !holds ? s.fd : -1, .events = (short)((sends ? POLLOUT : 0) | (holds ? 0 : POLLIN))},
    {.fd = s.signals, .events = POLLIN},
    {.fd = asks ? STDIN_FILENO : -1, .events = POLLIN},
    {.fd = holds ? s.output_fd : -1, .events = POLLOUT},
  };
  if (poll(p, 4, -1) < 0) return;
  if (p[1].revents != 0) on_signal();
  if (s.state == OVER) return;
  if (p[2].revents != 0) read_stdin();
  if (!holds && (p[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0) receive();
  if (s.state != OVER) take_all(r);
  if (s.out.bytes > 0) flush();
}

struct end run_session(const struct request *r) {
  sigset_t ours, before;
  sigemptyset(&ours);
  for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++) sigaddset(&ours, forwarded[i].number);
  sigaddset(&ours, SIGPIPE);
  sigprocmask(SIG_BLOCK, &ours, &before);
  sigdelset(&ours, SIGPIPE);
  s.signals = signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
  if (s.signals < 0 || !begin(r)) finish(END_UNTOUCHED, 0, NULL, 0);
  while (s.state != OVER) turn(r);
  if (s.end.kind != END_UNTOUCHED && s.fd >= 0) {
    // 1000, the normal end (RFC 6455, 7.4.1).
    send(s.fd, "\x88\x82\0\0\0\0\x03\xe8", 8, MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  close(s.fd);
  close(s.signals);
  // Whoever runs next has them as we had; else one that waits would end us before our own code does.
  if (s.end.kind != END_CODE) sigprocmask(SIG_SETMASK, &before, NULL);
  return s.end;
}

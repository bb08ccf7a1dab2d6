// From the host to the command: stdin, signals, sizes.
#include "supervise.h"

#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

static void close_stdin(void) {
  if (job.in_fd < 0) return;
  if (!job.c->tty) {
    close_fd(&job.in_fd);
    return;
  }
  // A terminal has no end: its end-of-file character does it, twice after an unfinished line.
  struct termios t;
  if (tcgetattr(job.in_fd, &t) != 0 || (t.c_lflag & ICANON) == 0) return;
  unsigned char end[2] = {t.c_cc[VEOF], t.c_cc[VEOF]};
  if (write(job.in_fd, end, job.line_open ? 2 : 1) > 0) job.line_open = false;
}

void write_stdin(void) {
  while (job.in_fd >= 0 && job.stdin_from < job.stdin_to) {
    ssize_t n = write(job.in_fd, job.stdin_bytes + job.stdin_from, job.stdin_to - job.stdin_from);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
      // Nobody reads any more. A terminal's descriptor is its output too and stays.
      if (job.c->tty) job.in_fd = -1;
      else close_fd(&job.in_fd);
      break;
    }
    job.stdin_from += (size_t)n;
    job.line_open = job.stdin_bytes[job.stdin_from - 1] != '\n';
  }
  job.stdin_from = job.stdin_to = 0;
  if (job.in_ends) {
    job.in_ends = false;
    close_stdin();
  }
}

static void send_signal(uint32_t number) {
  if (job.ended || number < 1 || number > 64) return;
  pid_t group = job.c->pid;
  if (job.c->tty && job.stream[0].fd >= 0) {
    pid_t foreground = 0;
    if (ioctl(job.stream[0].fd, TIOCGPGRP, &foreground) == 0 && foreground > 1) group = foreground;
  }
  kill(-group, (int)number);
}

static bool frame_fits(void) {
  switch (job.in_type) {
    case IN_DATA: return job.in_left <= MAX_DATA;
    case IN_EOF:
    case IN_KILL: return job.in_left == 0;
    case IN_RESIZE:
    case IN_SIGNAL: return job.in_left == 4;
    default: return false;
  }
}

static void act(void) {
  job.header_have = 0;
  switch (job.in_type) {
    case IN_EOF:
      job.in_ends = true;
      write_stdin();
      break;
    case IN_KILL:
      doom(EXIT_KILLED);
      break;
    case IN_RESIZE:
      if (job.c->tty && job.stream[0].fd >= 0) {
        struct winsize size = {
          .ws_col = (unsigned short)(job.small[0] | job.small[1] << 8),
          .ws_row = (unsigned short)(job.small[2] | job.small[3] << 8),
        };
        ioctl(job.stream[0].fd, TIOCSWINSZ, &size);
      }
      break;
    case IN_SIGNAL:
      send_signal(get32(job.small));
      break;
    default:
      break;
  }
}

/// Reads the next piece of what the host sends. False when it would block or the connection was lost.
static bool receive(void) {
  unsigned char *to = job.header + job.header_have;
  size_t most = HEADER_BYTES - job.header_have;
  bool in_header = most > 0;
  if (!in_header && job.in_type == IN_DATA) {
    to = job.stdin_bytes;
    most = job.in_left;
  } else if (!in_header) {
    to = job.small + job.small_have;
    most = job.in_left;
  }
  ssize_t n = recv(job.conn, to, most, MSG_DONTWAIT);
  if (n < 0 && errno == EINTR) return true;
  if (n < 0 && errno == EAGAIN) return false;
  if (n == 0) end_input();
  if (n < 0) lose_connection();
  if (n <= 0) return false;
  if (!in_header) {
    job.in_left -= (size_t)n;
    if (job.in_type == IN_DATA) job.stdin_to = (size_t)n;
    else job.small_have += (size_t)n;
  } else {
    job.header_have += (size_t)n;
    if (job.header_have < HEADER_BYTES) return true;
    job.in_left = get32(job.header);
    job.in_type = job.header[4];
    job.small_have = 0;
    if (!frame_fits()) {
      lose_connection();
      return false;
    }
  }
  if (job.stdin_to > 0) {
    if (job.in_fd < 0) job.stdin_to = 0;
    else write_stdin();
  }
  if (job.in_left == 0) act();
  return job.conn >= 0;
}

void drop_input(void) {
  for (;;) {
    unsigned char scrap[4096];
    ssize_t n = recv(job.conn, scrap, sizeof scrap, MSG_DONTWAIT);
    if (n > 0 || (n < 0 && errno == EINTR)) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n == 0) job.input_ended = true;
    else lose_connection();
    return;
  }
}

void end_input(void) {
  job.input_ended = true;
  if (!job.c->detached) {
    doom(EXIT_KILLED);
  } else {
    job.in_ends = true;
    if (job.stdin_to == 0) write_stdin();
  }
}

void take_input(void) {
  // Not for ever: a host that sends without end must not hold up the rest.
  enum { PIECES_PER_TURN = 16 };
  for (int i = 0; i < PIECES_PER_TURN && job.conn >= 0 && job.stdin_to == 0 && !job.exit_sent && !job.input_ended && receive(); i++) continue;
}

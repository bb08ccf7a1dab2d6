// From the host to the command: stdin, signals, sizes.
#include "supervise.h"

#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

static void close_stdin(void) {
  if (s.in_fd < 0) return;
  if (!s.c->tty) {
    close_fd(&s.in_fd);
    return;
  }
  // A terminal has no end: its end-of-file character does it, twice after an unfinished line.
  struct termios t;
  if (tcgetattr(s.in_fd, &t) != 0 || (t.c_lflag & ICANON) == 0) return;
  unsigned char end[2] = {t.c_cc[VEOF], t.c_cc[VEOF]};
  if (write(s.in_fd, end, s.line_open ? 2 : 1) > 0) s.line_open = false;
}

void write_stdin(void) {
  while (s.in_fd >= 0 && s.stdin_from < s.stdin_to) {
    ssize_t n = write(s.in_fd, s.stdin_bytes + s.stdin_from, s.stdin_to - s.stdin_from);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
      // Nobody reads any more. A terminal's descriptor is its output too and stays.
      if (s.c->tty) s.in_fd = -1;
      else close_fd(&s.in_fd);
      break;
    }
    s.stdin_from += (size_t)n;
    s.line_open = s.stdin_bytes[s.stdin_from - 1] != '\n';
  }
  s.stdin_from = s.stdin_to = 0;
  if (s.in_ends) {
    s.in_ends = false;
    close_stdin();
  }
}

static void send_signal(uint32_t number) {
  if (s.ended || number < 1 || number > 64) return;
  pid_t group = s.c->pid;
  if (s.c->tty && s.stream[0].fd >= 0) {
    pid_t foreground = 0;
    if (ioctl(s.stream[0].fd, TIOCGPGRP, &foreground) == 0 && foreground > 1) group = foreground;
  }
  kill(-group, (int)number);
}

static bool frame_fits(void) {
  switch (s.in_type) {
    case IN_DATA: return s.in_left <= MAX_DATA;
    case IN_EOF:
    case IN_KILL: return s.in_left == 0;
    case IN_RESIZE:
    case IN_SIGNAL: return s.in_left == 4;
    default: return false;
  }
}

static void act(void) {
  s.header_have = 0;
  switch (s.in_type) {
    case IN_EOF:
      s.in_ends = true;
      write_stdin();
      break;
    case IN_KILL:
      doom(EXIT_KILLED);
      break;
    case IN_RESIZE:
      if (s.c->tty && s.stream[0].fd >= 0) {
        struct winsize size = {
          .ws_col = (unsigned short)(s.small[0] | s.small[1] << 8),
          .ws_row = (unsigned short)(s.small[2] | s.small[3] << 8),
        };
        ioctl(s.stream[0].fd, TIOCSWINSZ, &size);
      }
      break;
    case IN_SIGNAL:
      send_signal(get32(s.small));
      break;
    default:
      break;
  }
}

/// Reads the next piece of what the host sends. False when it would block or the connection was lost.
static bool receive(void) {
  unsigned char *to = s.header + s.header_have;
  size_t most = HEADER_BYTES - s.header_have;
  bool in_header = most > 0;
  if (!in_header && s.in_type == IN_DATA) {
    to = s.stdin_bytes;
    most = s.in_left;
  } else if (!in_header) {
    to = s.small + s.small_have;
    most = s.in_left;
  }
  ssize_t n = recv(s.conn, to, most, MSG_DONTWAIT);
  if (n < 0 && errno == EINTR) return true;
  if (n < 0 && errno == EAGAIN) return false;
  if (n <= 0) {
    lose_connection();
    return false;
  }
  if (!in_header) {
    s.in_left -= (size_t)n;
    if (s.in_type == IN_DATA) s.stdin_to = (size_t)n;
    else s.small_have += (size_t)n;
  } else {
    s.header_have += (size_t)n;
    if (s.header_have < HEADER_BYTES) return true;
    s.in_left = get32(s.header);
    s.in_type = s.header[4];
    s.small_have = 0;
    if (!frame_fits()) {
      lose_connection();
      return false;
    }
  }
  if (s.stdin_to > 0) {
    if (s.in_fd < 0) s.stdin_to = 0;
    else write_stdin();
  }
  if (s.in_left == 0) act();
  return s.conn >= 0;
}

void drop_input(void) {
  for (;;) {
    unsigned char scrap[4096];
    ssize_t n = recv(s.conn, scrap, sizeof scrap, MSG_DONTWAIT);
    if (n > 0 || (n < 0 && errno == EINTR)) continue;
    if (n < 0 && errno == EAGAIN) return;
    lose_connection();
    return;
  }
}

void take_input(void) {
  // Not for ever: a host that sends without end must not hold up the rest.
  enum { PIECES_PER_TURN = 16 };
  for (int i = 0; i < PIECES_PER_TURN && s.conn >= 0 && s.stdin_to == 0 && !s.exit_sent && receive(); i++) continue;
}

// What supervise.c and input.c share: one command's supervision.
#ifndef WARREN_SUPERVISE_H
#define WARREN_SUPERVISE_H

#include "guest.h"

enum {
  CHUNK = 64 << 10, // a pipe's usual capacity
  OUT_ROOM = 4 * CHUNK,
};

struct stream {
  int fd; // -1: closed
  unsigned type;
  uint64_t sent;
  uint64_t left; // after the end of the command: bytes that it had written by then
  bool cut;
  uint64_t rests_until_ns; // a terminal that nobody holds open
};

struct supervision {
  const struct command *c;
  int conn;
  int signals;
  pid_t init;
  struct stream stream[2];
  bool ended; // the command, not its descendants
  bool measured;
  int status;
  bool exit_sent;
  bool doomed; // kill all that there is, until nothing is left
  uint64_t next_sweep_ns;
  uint64_t grace_end_ns; // 0: its tree is under the limits of commands
  uint32_t exit_flags;
  uint64_t started_waits_ns; // until then STARTED may wait for what follows it; 0: it no longer does
  uint64_t linger_ns;

  // From the host: one frame's header, a small payload, or stdin bytes on their way in.
  unsigned char header[HEADER_BYTES];
  size_t header_have;
  unsigned in_type;
  size_t in_left;
  unsigned char small[4];
  size_t small_have;
  size_t stdin_from, stdin_to;
  int in_fd;
  bool input_ended; // the host has ended its direction
  bool in_ends; // EOF came; stdin closes after what is pending
  bool line_open; // terminal: the last byte did not end a line

  size_t out_from, out_to;
  unsigned char stdin_bytes[MAX_DATA];
  unsigned char out[OUT_ROOM];
};
extern struct supervision job;

/// Closes it unless it is -1, which it is then.
void close_fd(int *fd);
/// The host has gone: ends the tree unless the command is detached or its exit was sent.
void lose_connection(void);
/// Ends the whole tree, and says so in EXIT. What can't die at once (a process in the middle of disk or network I/O) is
/// swept again later.
void doom(uint32_t exit_flag);

// ---- input.c

/// Takes what the host sends; returns when nothing is there, or when stdin takes no more.
void take_input(void);
/// The host has ended its direction: as KILL, or as EOF when the command is detached.
void end_input(void);
/// What comes once EXIT was sent is of no use, but the host is to close first: see linger().
void drop_input(void);
/// Moves bytes that have come to the command's stdin.
void write_stdin(void);

#endif

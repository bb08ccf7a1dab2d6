// The front: the program `warren`. It runs the CLI, main.js beside it, with Node; only the plain `warren exec` it does by itself, since
// there Node's start is most of the time. It says nothing: whatever needs words, or a choice, is the CLI's.
//
//   main.c       whether the command line is one of ours; the way to the CLI
//   request.c    the options of exec, this machine's engine, and the first frame of docs/wire/rest.md, "The exec stream"
//   session.c    the connection, our streams and signals, until the command has ended
//   json.c       writing and reading what little JSON there is
#ifndef WARREN_FRONT_H
#define WARREN_FRONT_H

#include <stdbool.h>
#include <stddef.h>

// ---- json.c

/// Bytes that grow, up to a limit; `full` once they did not fit.
struct text {
  char *at;
  size_t bytes, room;
  bool full;
};
enum { MAX_TEXT = 1 << 20 }; // the largest frame that a server takes

void add(struct text *t, const char *bytes, size_t count);
void add_str(struct text *t, const char *string);
/// A JSON string. False: it is not UTF-8.
bool add_json_string(struct text *t, const char *string);

/// The value of a key of a JSON object that a server wrote: the inside of a string as it is on the wire, or a number or literal. False: it has
/// no such key, or is no object. Keys of objects inside are not found.
bool json_find(const char *object, size_t bytes, const char *key, const char **value, size_t *value_bytes);
/// True when that value is this string, which has nothing that JSON escapes.
bool json_is(const char *object, size_t bytes, const char *key, const char *expected);

// ---- request.c

struct request {
  const char *id;
  const char *state_dir; // as it was given; NULL: the default
  char socket[108];
  bool interactive; // our stdin is the command's
  struct text start; // the first frame
};
/// Understands a command line that begins with `exec`. False: it is for the CLI.
bool parse_request(int argc, char **argv, struct request *r);

// ---- session.c

enum end_kind {
  END_UNTOUCHED, // nothing was asked for yet, or nothing came of it: the CLI may do all of it
  END_CODE, // with this exit code, and no more to say
  END_SAY, // the CLI has something to say about `frame`
};
struct end {
  enum end_kind kind;
  int code;
  long long since_ms; // when the command was started, of the Unix epoch
  char *frame; // the server's last one, NUL-terminated; NULL: the connection was lost
};
struct end run_session(const struct request *r);

#endif

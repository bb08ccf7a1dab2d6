// What the guest sends must be what docs/wire/guest.md says, whatever it was asked.
#include <string.h>

#include "../fuzz.h"
#include "../../guest/guest.h"
#include "box.h"

static unsigned request;
static unsigned char header[HEADER_BYTES];
static size_t header_have, payload_left;
static unsigned frames;
static bool ended, raw;

void replies_reset(unsigned request_type) {
  request = request_type;
  header_have = payload_left = 0;
  frames = 0;
  ended = raw = false;
}

static bool is_streamed(unsigned type) { return type == OUT_STDOUT || type == OUT_STDERR || type == OUT_DATA; }

static void begin_frame(void) {
  unsigned type = header[4];
  payload_left = get32(header);
  if (ended) fuzz_finding("a frame after the last one");
  if (type < OUT_OK || type > OUT_DATAGRAM) fuzz_finding("a frame of no known type");
  if (payload_left > (is_streamed(type) ? MAX_DATA : MAX_REPLY)) fuzz_finding("a frame that is too long");
  if (type == OUT_EXIT && payload_left != EXIT_BYTES) fuzz_finding("an EXIT of the wrong length");
  if (type == OUT_STARTED && (payload_left != 4 || frames != 0)) fuzz_finding("a misplaced STARTED");
  if (request == REQ_SPAWN && frames == 0 && type != OUT_STARTED && type != OUT_ERROR)
    fuzz_finding("a SPAWN that is answered by neither STARTED nor ERROR");
  bool goes_on = request == REQ_WATCH || request == REQ_LOGS || request == REQ_DATAGRAMS;
  ended = type == OUT_EXIT || type == OUT_ERROR || type == OUT_END || (type == OUT_OK && !goes_on);
  raw = type == OUT_OK && request == REQ_DIAL;
  frames++;
}

void replies_take(const void *data, size_t bytes) {
  const unsigned char *at = data;
  fuzz_look_at(data, bytes);
  while (bytes > 0 && !raw) {
    size_t n = payload_left < bytes ? payload_left : bytes;
    if (payload_left > 0) {
      payload_left -= n;
    } else {
      n = 1;
      header[header_have++] = *at;
      if (header_have == HEADER_BYTES) {
        header_have = 0;
        begin_frame();
      }
    }
    at += n;
    bytes -= n;
  }
}

void replies_end(void) {
  // A connection that the guest was told is lost may end anywhere; kernel.c does not call this then. Datagrams go both ways until
  // the host ends them, whatever is on its way to it.
  if (request == REQ_DATAGRAMS) return;
  if (header_have != 0 || payload_left != 0) fuzz_finding("half a frame");
}

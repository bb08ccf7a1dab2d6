#include "guest.h"
extern int nothing_here;

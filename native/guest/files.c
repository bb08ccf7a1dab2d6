#include "guest.h"
void do_read(struct fields *f){ (void)f; send_error(FD_CONN, 38, "not built"); }
void do_stat(struct fields *f){ (void)f; send_error(FD_CONN, 38, "not built"); }
void do_list(struct fields *f){ (void)f; send_error(FD_CONN, 38, "not built"); }
void do_mkdir(struct fields *f){ (void)f; send_error(FD_CONN, 38, "not built"); }
void do_rename(struct fields *f){ (void)f; send_error(FD_CONN, 38, "not built"); }
void do_chmod(struct fields *f){ (void)f; send_error(FD_CONN, 38, "not built"); }
void do_write(struct fields *f){ (void)f; send_error(FD_CONN, 38, "not built"); }
void do_remove(struct fields *f){ (void)f; send_error(FD_CONN, 38, "not built"); }
void do_watch(struct fields *f){ (void)f; send_error(FD_CONN, 38, "not built"); }
void do_dial(struct fields *f){ (void)f; send_error(FD_CONN, 38, "not built"); }
#include <fcntl.h>
int open_plain(int dir,const char*p,int fl){return openat(dir,p,fl|O_CLOEXEC|O_NONBLOCK);}

/* Ways out of a build step. Each attempt says OUT when it got somewhere, and is harmless when it does. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/* What every file that must not be reached contains, as does the builder's environment; in two pieces, so that this
 * program does not find itself. */
#define MARK "escape-" "bait:"

struct attempt {
    const char *name;
    void (*run)(void);
};

extern const struct attempt FILES[], PROCESSES[], KERNEL[], NAMES[], NETWORK[], SECRET[];

/* A directory of the host with home/.docker/config.json, store/ and token in it; "" when none was named. */
extern const char *outside;
/* A TCP port of the host's loopback and the name of an abstract socket, for NETWORK. */
extern int host_port;
extern const char *host_socket;

/* It got out: the first text is kept. */
void out(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* What held it; the last text is kept. */
void held(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A call that must fail: OUT when it does not. */
void must_fail(const char *what, long result);
/* A call that must be refused before its arguments are looked at: anything but EPERM, EACCES or ENOSYS is OUT. */
void must_be_refused(const char *what, long result);
/* A file that must not open. Returns the descriptor or -1. */
int must_not_open(const char *path, int flags);
/* Whether the file holds MARK. */
bool has_mark(const char *path);
/* OUT when the file holds MARK. */
void must_not_show_mark(const char *path);

/* Calls with each process that is not of this step: those of other sessions. Returns their number. */
int each_foreign(void (*visit)(pid_t pid));

/* Every call by which a process changes a folder or talks to the network is a point: counted, and one of them hit by a
   fault. Loaded before the C library (LD_PRELOAD), so SQLite's writes and rmtree's removals are seen as Python's are.

   Two points a plain write: before it, and after its first half, where a process may be killed and a disk be full.
   Reads, locks and fsync are no points: a process that dies at one leaves what it would leave at the next one. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, TRACE, KILL, INTERRUPT, FULL, REFUSE };
enum { GROWS = 1, NETWORK = 2 }; /* a call that needs space on the disk; one on a socket */

static int mode = OFF;
static long fatal_point;
static int trace_handle = -1;
static char root[PATH_MAX];
static size_t root_length;
static atomic_long passed;

void effects_arm(int new_mode, long point, int handle, const char *folder)
{
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    trace_handle = handle;
    fatal_point = point;
    atomic_store(&passed, 0);
    mode = new_mode;
}

/* Meet a point; true where the call is to be refused, with errno set. */
static int met(const char *call, const char *where, int traits)
{
    long point = atomic_fetch_add(&passed, 1) + 1;
    if (mode == TRACE) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%s\t%s\n", call, where);
        syscall(SYS_write, trace_handle, line, length);
    }
    if (mode == FULL && point >= fatal_point && (traits & GROWS)) {
        errno = ENOSPC;
        return 1;
    }
    if (point != fatal_point)
        return 0;
    if (mode == KILL)
        kill(getpid(), SIGKILL);
    if (mode == INTERRUPT)
        kill(getpid(), SIGINT);
    if (mode == REFUSE) {
        errno = traits & NETWORK ? ECONNRESET : EIO;
        return 1;
    }
    return 0;
}

static int below_root(const char *path)
{
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

/* The path of an open handle; empty where it is none below the root. */
static const char *path_of(int handle, char *room)
{
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, room, PATH_MAX - 1);
    room[length > 0 ? length : 0] = 0;
    return length > 0 && below_root(room) ? room : "";
}

/* The full path that a call names; empty where it is none below the root. */
static const char *named(int folder, const char *path, char *room)
{
    if (path[0] == '/')
        return below_root(path) ? path : "";
    char base[PATH_MAX];
    if (folder == AT_FDCWD) {
        if (getcwd(base, sizeof base) == NULL || !below_root(base))
            return "";
    } else if (!*path_of(folder, base))
        return "";
    snprintf(room, PATH_MAX, "%.2000s/%.2000s", base, path);
    return room;
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

#define POINT_AT(call, where, traits)                              \
    do {                                                           \
        const char *place = mode == OFF ? "" : (where);            \
        if (*place && met(call, place, traits))                    \
            return -1;                                             \
    } while (0)

static int is_network(int handle)
{
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    return getsockname(handle, (struct sockaddr *)&address, &length) == 0 &&
           (address.ss_family == AF_INET || address.ss_family == AF_INET6);
}

/* --- files */

#define OPENING(function, folder)                                               \
    char room[PATH_MAX];                                                        \
    mode_t permissions = 0;                                                     \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                      \
        va_list rest;                                                           \
        va_start(rest, flags);                                                  \
        permissions = va_arg(rest, mode_t);                                     \
        va_end(rest);                                                           \
    }                                                                           \
    if (flags & (O_CREAT | O_TRUNC))                                            \
        POINT_AT("create", named(folder, path, room), GROWS);

int open(const char *path, int flags, ...)
{
    OPENING(open, AT_FDCWD)
    return REAL(open)(path, flags, permissions);
}

int open64(const char *path, int flags, ...)
{
    OPENING(open64, AT_FDCWD)
    return REAL(open64)(path, flags, permissions);
}

int openat(int folder, const char *path, int flags, ...)
{
    OPENING(openat, folder)
    return REAL(openat)(folder, path, flags, permissions);
}

int openat64(int folder, const char *path, int flags, ...)
{
    OPENING(openat64, folder)
    return REAL(openat64)(folder, path, flags, permissions);
}

ssize_t write(int handle, const void *data, size_t size)
{
    char room[PATH_MAX];
    const char *place = mode == OFF ? "" : path_of(handle, room);
    if (*place && met("write", place, GROWS))
        return -1;
    if (!*place || size < 2)
        return REAL(write)(handle, data, size);
    /* The first half by itself, where the next point is the one: as a full disk does it, and a death in a large write. */
    if ((mode == KILL || mode == FULL) && atomic_load(&passed) + 1 == fatal_point) {
        ssize_t written = REAL(write)(handle, data, size / 2);
        met("write half", place, 0);
        return written;
    }
    met("write half", place, 0);
    return REAL(write)(handle, data, size);
}

ssize_t writev(int handle, const struct iovec *parts, int count)
{
    char room[PATH_MAX];
    POINT_AT("write", path_of(handle, room), GROWS);
    return REAL(writev)(handle, parts, count);
}

ssize_t pwrite(int handle, const void *data, size_t size, off_t offset)
{
    char room[PATH_MAX];
    POINT_AT("pwrite", path_of(handle, room), GROWS);
    return REAL(pwrite)(handle, data, size, offset);
}

ssize_t pwrite64(int handle, const void *data, size_t size, off64_t offset)
{
    char room[PATH_MAX];
    POINT_AT("pwrite", path_of(handle, room), GROWS);
    return REAL(pwrite64)(handle, data, size, offset);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size)
{
    char room[PATH_MAX];
    POINT_AT("write", path_of(out, room), GROWS);
    return REAL(sendfile64)(out, in, offset, size);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags)
{
    char room[PATH_MAX];
    POINT_AT("write", path_of(out, room), GROWS);
    return REAL(copy_file_range)(in, from, out, to, size, flags);
}

int ftruncate(int handle, off_t size)
{
    char room[PATH_MAX];
    POINT_AT("truncate", path_of(handle, room), 0);
    return REAL(ftruncate)(handle, size);
}

int ftruncate64(int handle, off64_t size)
{
    char room[PATH_MAX];
    POINT_AT("truncate", path_of(handle, room), 0);
    return REAL(ftruncate64)(handle, size);
}

/* The machine goes on: nothing waits for the disk. */
int fsync(int handle)
{
    (void)handle;
    return 0;
}

int fdatasync(int handle)
{
    (void)handle;
    return 0;
}

int fchmod(int handle, mode_t permissions)
{
    char room[PATH_MAX];
    POINT_AT("chmod", path_of(handle, room), 0);
    return REAL(fchmod)(handle, permissions);
}

int chmod(const char *path, mode_t permissions)
{
    char room[PATH_MAX];
    POINT_AT("chmod", named(AT_FDCWD, path, room), 0);
    return REAL(chmod)(path, permissions);
}

/* --- names */

int rename(const char *from, const char *to)
{
    char room[PATH_MAX];
    POINT_AT("rename", named(AT_FDCWD, to, room), 0);
    return REAL(rename)(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    char room[PATH_MAX];
    POINT_AT("rename", named(to_folder, to, room), 0);
    return REAL(renameat)(from_folder, from, to_folder, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    char room[PATH_MAX];
    POINT_AT("rename", named(to_folder, to, room), 0);
    return REAL(renameat2)(from_folder, from, to_folder, to, flags);
}

int link(const char *from, const char *to)
{
    char room[PATH_MAX];
    POINT_AT("link", named(AT_FDCWD, to, room), GROWS);
    return REAL(link)(from, to);
}

int symlink(const char *content, const char *path)
{
    char room[PATH_MAX];
    POINT_AT("link", named(AT_FDCWD, path, room), GROWS);
    return REAL(symlink)(content, path);
}

int unlink(const char *path)
{
    char room[PATH_MAX];
    POINT_AT("remove", named(AT_FDCWD, path, room), 0);
    return REAL(unlink)(path);
}

int unlinkat(int folder, const char *path, int flags)
{
    char room[PATH_MAX];
    POINT_AT("remove", named(folder, path, room), 0);
    return REAL(unlinkat)(folder, path, flags);
}

int rmdir(const char *path)
{
    char room[PATH_MAX];
    POINT_AT("remove", named(AT_FDCWD, path, room), 0);
    return REAL(rmdir)(path);
}

int mkdir(const char *path, mode_t permissions)
{
    char room[PATH_MAX];
    POINT_AT("mkdir", named(AT_FDCWD, path, room), GROWS);
    return REAL(mkdir)(path, permissions);
}

int mkdirat(int folder, const char *path, mode_t permissions)
{
    char room[PATH_MAX];
    POINT_AT("mkdir", named(folder, path, room), GROWS);
    return REAL(mkdirat)(folder, path, permissions);
}

/* --- the network */

int connect(int handle, const struct sockaddr *address, socklen_t length)
{
    int counts = address->sa_family == AF_INET || address->sa_family == AF_INET6;
    POINT_AT("connect", counts ? "network" : "", NETWORK);
    return REAL(connect)(handle, address, length);
}

ssize_t send(int handle, const void *data, size_t size, int flags)
{
    if (mode != OFF && is_network(handle) && met("send", "network", NETWORK)) {
        shutdown(handle, SHUT_RDWR); /* what is reset stays so: nobody waits for an answer */
        errno = ECONNRESET;
        return -1;
    }
    return REAL(send)(handle, data, size, flags);
}

/* Every call that takes a path, with every name that may lead to the host: what emulates a call must not lend its own rights. */
#include "escape.h"
#include <pthread.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/un.h>
#include <sys/xattr.h>

#define MAX_NAMES 160
static char names[MAX_NAMES][600];
static int count;

static void name(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void name(const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (count < MAX_NAMES) vsnprintf(names[count++], sizeof *names, format, args);
    va_end(args);
}

/* The parent of a process: the way up leads to the monitor and the builder, where they can be seen. */
static pid_t parent_of(pid_t pid) {
    char line[1024] = "";
    snprintf(line, sizeof line, "/proc/%d/stat", pid);
    int fd = open(line, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
    if (fd >= 0) close(fd);
    line[length > 0 ? length : 0] = 0;
    char *after = strrchr(line, ')');
    int parent = 0;
    return after && sscanf(after, ") %*c %d", &parent) == 1 ? parent : 0;
}

/* Names of the host's folder `outside`, seen from a step without and with an emulated /proc. */
static void make_names(void) {
    int root = open("/", O_PATH | O_DIRECTORY), proc = open("/proc", O_PATH | O_DIRECTORY);
    count = 0;
    if (!*outside) return;
    name("%s", outside);
    name("/../../../..%s", outside);
    int ancestors = 0;
    for (pid_t pid = getppid(); pid > 0 && ancestors < 16; pid = parent_of(pid), ancestors++) {
        name("/proc/%d/root%s", pid, outside);
        name("/proc/%d/cwd/../../../../../..%s", pid, outside);
        name("/proc//%d/./root/..%s", pid, outside);
        name("/proc/self/../%d/root%s", pid, outside);
        name("/proc/%d/task/%d/root%s", pid, pid, outside);
        name("/proc/%d/fd/../root%s", pid, outside);
    }
    name("/proc/1/root%s", outside);
    name("/proc/self/root%s", outside);
    name("/proc/self/root/../../..%s", outside);
    name("/proc/self/cwd/../../../../../../..%s", outside);
    name("/proc/self/task/%d/root/..%s", (int)getpid(), outside);
    name("/proc/thread-self/root/..%s", outside);
    name("/proc/self/fd/%d/..%s", root, outside);
    name("/dev/fd/%d/../..%s", root, outside);
    name("/dev/fd/../root/..%s", outside);
    name("/dev/fd/../../1/root%s", outside);
    name("/proc/self/fd/%d/1/root%s", proc, outside);
    name("/proc/self/fd/%d/..%s", proc, outside);
    name("/proc/self/fd/%d/../..%s", proc, outside);
    name("/proc/..%s", outside);
    name("/proc/self/../..%s", outside);
    name("/dev/..%s", outside);
    name("/dev/fd/../../..%s", outside);
    name("/dev/pts/../..%s", outside);
    name("/proc/self/ns/../root/..%s", outside);
    name("/proc/self/map_files/../root/..%s", outside);
    name("/sys/..%s", outside);
    unlink("/tmp/to-proc"), unlink("/tmp/to-root"), unlink("/tmp/to-self");
    if (symlink("/proc", "/tmp/to-proc") + symlink("/proc/1/root", "/tmp/to-root") + symlink("/proc/self/root/..", "/tmp/to-self") == 0) {
        name("/tmp/to-proc/1/root%s", outside);
        name("/tmp/to-root%s", outside);
        name("/tmp/to-self%s", outside);
        name("/tmp/to-proc/..%s", outside);
    }
}

static char path[1024];
static const char *at(int index, const char *file) {
    snprintf(path, sizeof path, "%s/%s", names[index], file);
    return path;
}

#define EACH(file) for (int i = (make_names(), 0); i < count; i++) if (at(i, file))
#define TRY(what, file, call) EACH(file) { long value = (call); if (value >= 0) out("%s %s", what, path); else held("%s: %s", path, strerror(errno)); }

static void reads(void) {
    struct stat file;
    struct statx more;
    struct statfs system;
    char text[64];
    TRY("opened", "token", open(path, O_RDONLY | O_NONBLOCK));
    TRY("opened by openat2", "token", syscall(SYS_openat2, AT_FDCWD, path, (uint64_t[3]){O_RDONLY, 0, 0}, 24));
    TRY("opened a path", "", open(path, O_PATH));
    TRY("opened a folder", "", open(path, O_RDONLY | O_DIRECTORY));
    TRY("stat", "token", stat(path, &file));
    TRY("lstat", "token", lstat(path, &file));
    TRY("statx", "token", statx(AT_FDCWD, path, 0, STATX_ALL, &more));
    TRY("access", "token", access(path, F_OK));
    TRY("statfs", "", statfs(path, &system));
    TRY("readlink", "link", readlink(path, text, sizeof text));
    TRY("getxattr", "token", listxattr(path, NULL, 0));
    TRY("name_to_handle_at", "token", name_to_handle_at(AT_FDCWD, path, &(struct file_handle){0}, &(int){0}, 0) < 0 && errno != EOVERFLOW ? -1 : 0);
    int watch = inotify_init();
    TRY("watched", "", inotify_add_watch(watch, path, IN_ALL_EVENTS));
}

static void enters(void) {
    TRY("chdir", "", chdir(path));
    TRY("chroot", "", chroot(path));
    TRY("executed", "escape", access(path, X_OK));
}

static void writes(void) {
    struct timespec times[2] = {{1, 0}, {1, 0}};
    TRY("created", "made", open(path, O_WRONLY | O_CREAT, 0644));
    TRY("opened for writing", "token", open(path, O_WRONLY));
    TRY("mkdir", "made-folder", mkdir(path, 0755));
    TRY("mkfifo", "made-pipe", mknod(path, S_IFIFO | 0644, 0));
    TRY("mknod", "made-node", mknod(path, S_IFCHR | 0644, 0));
    TRY("symlink", "made-link", symlink("x", path));
    TRY("chmod", "token", chmod(path, 0644));
    TRY("chown", "token", chown(path, 0, 0));
    TRY("lchown", "token", lchown(path, 0, 0));
    TRY("fchownat", "token", fchownat(AT_FDCWD, path, 0, 0, 0));
    TRY("utimensat", "token", utimensat(AT_FDCWD, path, times, 0));
    TRY("setxattr", "token", setxattr(path, "user.escape", "x", 1, 0));
    TRY("removexattr", "token", removexattr(path, "user.escape"));
    TRY("truncate", "made", truncate(path, 0));
    TRY("rename", "made", rename(path, "/tmp/renamed"));
    TRY("rmdir", "made-folder", rmdir(path));
    TRY("unlink", "made-pipe", unlink(path));
    int mine = open("/tmp/mine", O_WRONLY | O_CREAT, 0644);
    TRY("renamed to", "made-2", rename("/tmp/mine", path));
    TRY("linked to", "made-3", link("/tmp/mine", path));
    close(mine);
    TRY("linked from", "token", link(path, "/tmp/linked") == 0 ? unlink("/tmp/linked") : -1);
}

static void sockets(void) {
    TRY("bound a socket", "made-socket", ({
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM, 0), done = -1;
        errno = ENAMETOOLONG;
        if (strlen(path) < sizeof to.sun_path) {
            strcpy(to.sun_path, path);
            done = bind(fd, (struct sockaddr *)&to, sizeof to);
        }
        int why = errno;
        close(fd);
        errno = why;
        done;
    }));
}

/* The same by descriptors of folders: of /, of /proc, of this process. */
static void by_descriptor(void) {
    const char *const folders[] = {"/", "/proc", "/proc/self", "/proc/self/fd", "/dev", "/tmp"};
    const char *const ups[] = {"..", "../..", "1/root", "root", "root/..", "../1/root", "../root", "fd/../root/..", "self/root", "self/root/.."};
    char relative[700];
    struct stat file;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        for (size_t j = 0; j < sizeof ups / sizeof *ups; j++) {
            int folder = open(folders[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
            snprintf(relative, sizeof relative, "%s%s/token", ups[j], outside);
            if (folder < 0 || !*outside) continue;
            if (openat(folder, relative, O_RDONLY) >= 0) out("openat %s, %s", folders[i], relative);
            else if (fstatat(folder, relative, &file, 0) == 0) out("fstatat %s, %s", folders[i], relative);
            else if (fchownat(folder, relative, 0, 0, 0) == 0) out("fchownat %s, %s", folders[i], relative);
            else if (fchdir(folder) == 0 && stat(relative, &file) == 0) out("%s after chdir to %s", relative, folders[i]);
            else held("%s, %s: %s", folders[i], relative, strerror(errno));
            close(folder);
        }
}

/* A path that another thread changes while somebody looks at it. */
static char flipping[1024], *targets[2];
static volatile bool stop;
static void *flip(void *unused) {
    while (!stop)
        for (int i = 0; i < 2; i++) memcpy(flipping, targets[i], strlen(targets[i]) + 1);
    return unused;
}
static void race(void) {
    pthread_t thread;
    make_names();
    close(open("/tmp/harmless", O_WRONLY | O_CREAT, 0644));
    for (int i = 0; i < count; i += 3) {
        char harmless[] = "/tmp/harmless", emulated[] = "/proc/self/status";
        at(i, "token");
        targets[0] = i % 2 ? harmless : emulated, targets[1] = path, stop = false;
        strcpy(flipping, targets[0]);
        if (pthread_create(&thread, NULL, flip, NULL)) return;
        for (int tries = 0; tries < 30; tries++) {
            char text[1 << 12];
            int fd = open(flipping, O_RDONLY | O_NONBLOCK);
            ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text);
            if (length > 0 && memmem(text, (size_t)length, MARK, strlen(MARK))) out("won a race for %s", path);
            if (fd >= 0) close(fd);
            chown(flipping, 0, 0);
        }
        stop = true;
        pthread_join(thread, NULL);
    }
    held("no race won");
}

/* What /proc says of this process must be of this process, and lead nowhere else. */
static void own_links(void) {
    const char *const links[] = {"root", "cwd", "exe", "fd/0", "ns/mnt"};
    char name_of[64], target[1024];
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        snprintf(name_of, sizeof name_of, "/proc/self/%s", links[i]);
        ssize_t length = readlink(name_of, target, sizeof target - 1);
        if (length < 0) continue;
        target[length] = 0;
        if (*outside && strstr(target, outside)) out("%s is %s", name_of, target);
        else held("%s is %s", name_of, target);
    }
    struct stat root, slash;
    int fd = open("/proc/self/root", O_PATH);
    if (fd >= 0 && fstat(fd, &root) == 0 && stat("/", &slash) == 0 && root.st_ino != slash.st_ino) out("/proc/self/root is another folder than /");
    if (fd >= 0) close(fd);
}

const struct attempt NAMES[] = {
    {"read-by-name", reads},
    {"enter-by-name", enters},
    {"write-by-name", writes},
    {"socket-by-name", sockets},
    {"name-at-descriptor", by_descriptor},
    {"race-for-a-name", race},
    {"own-links", own_links},
    {0},
};

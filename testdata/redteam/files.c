/* Files of the host: by path, by what was left open, by a second root, by devices. */
#include "escape.h"
#include <dirent.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

extern char **environ;

static void descriptors(void) {
    for (int fd = 3; fd < 4096; fd++)
        if (fcntl(fd, F_GETFD) >= 0) {
            char link[32], target[200] = "";
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            if (readlink(link, target, sizeof target - 1) < 0) target[0] = 0;
            out("descriptor %d is open: %s", fd, target);
        }
    held("none above 2");
}

static void working_directory(void) {
    char path[4096];
    /* Not getcwd(3), which hides what the kernel says of a directory outside the root. */
    if (syscall(SYS_getcwd, path, sizeof path) < 0) out("getcwd: %s", strerror(errno));
    else if (path[0] != '/') out("the working directory is %s", path);
    else held("%s", path);
}

static void environment(void) {
    for (char **variable = environ; *variable; variable++)
        if (strstr(*variable, MARK) || strncmp(*variable, "RBUILD_", 7) == 0 || strncmp(*variable, "DOCKER_", 7) == 0)
            out("%s", *variable);
    held("nothing of the builder's");
}

/* The names under which a file below `outside` may be seen from here. */
static void each_name(const char *file, void (*visit)(const char *path)) {
    static const char *const prefixes[] = {"", "/proc/1/root", "/proc/self/root", "/../../..", "/proc/1/cwd/../../../../..",
                                           "/proc/self/cwd/../../../.."};
    char path[4096];
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        snprintf(path, sizeof path, "%s%s%s", prefixes[i], outside, file);
        visit(path);
    }
}

static void docker_config(void) {
    if (*outside) each_name("/home/.docker/config.json", must_not_show_mark);
    must_not_show_mark("/root/.docker/config.json");
    must_not_show_mark("/kaniko/.docker/config.json");
    const char *home = getenv("HOME");
    char path[4096];
    snprintf(path, sizeof path, "%s/.docker/config.json", home ? home : "");
    must_not_show_mark(path);
}

static void service_account(void) {
    if (*outside) each_name("/token", must_not_show_mark);
    must_not_open("/var/run/secrets/kubernetes.io/serviceaccount/token", O_RDONLY);
    must_not_open("/run/secrets/kubernetes.io/serviceaccount/token", O_RDONLY);
}

static void must_not_list(const char *path) {
    DIR *dir = opendir(path);
    if (dir) out("listed %s", path);
    else held("%s: %s", path, strerror(errno));
}

static void store(void) {
    if (*outside) each_name("/store", must_not_list);
    must_not_list("/var/lib/rbuild");
}

static bool is_outside(void) {
    char path[4096];
    snprintf(path, sizeof path, ".%s/token", outside);
    struct stat file;
    return *outside && stat(path, &file) == 0;
}

static void second_chroot(void) {
    int root = open("/", O_RDONLY | O_DIRECTORY);
    mkdir("/tmp/deeper", 0755);
    if (chroot("/tmp/deeper") < 0) {
        held("chroot: %s", strerror(errno));
        return;
    }
    if (fchdir(root) < 0) {
        held("fchdir: %s", strerror(errno));
        return;
    }
    for (int i = 0; i < 64; i++) {
        if (is_outside()) out("chroot, fchdir and .. lead to the host's root");
        if (chdir("..") < 0) break;
    }
    held("the walk up ends at the step's root");
}

/* A directory that is renamed out of the root of a process that stands in it. */
static void renamed_out_of_root(void) {
    mkdir("/tmp/jail", 0755), mkdir("/tmp/jail/cell", 0755);
    int ready[2], go[2];
    char byte = 0;
    if (pipe(ready) < 0 || pipe(go) < 0) return;
    pid_t child = fork();
    if (child == 0) {
        if (chroot("/tmp/jail") < 0) {
            held("chroot: %s", strerror(errno));
            _exit(0);
        }
        if (chdir("/cell") < 0 || write(ready[1], &byte, 1) < 0 || read(go[0], &byte, 1) < 0) _exit(0);
        for (int i = 0; i < 64; i++) {
            if (is_outside()) out("a directory renamed out of a root leads to the host's root");
            if (chdir("..") < 0) break;
        }
        held("the walk up ends at the step's root");
        _exit(0);
    }
    close(ready[1]), close(go[0]);
    if (read(ready[0], &byte, 1) == 1 && rename("/tmp/jail/cell", "/tmp/cell") < 0) held("rename: %s", strerror(errno));
    if (write(go[1], &byte, 1) < 0) held("write: %s", strerror(errno));
    waitpid(child, NULL, 0);
    rmdir("/tmp/cell"), rmdir("/tmp/jail");
}

static void open_node(const char *directory, mode_t kind, dev_t device) {
    char path[4096];
    snprintf(path, sizeof path, "%s/node", directory);
    unlink(path);
    if (mknod(path, kind | 0666, device) < 0) {
        held("mknod %s: %s", path, strerror(errno));
        return;
    }
    struct stat node;
    /* An emulated node is an ordinary file to the kernel; only an open that reaches a device counts. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) held("open %s: %s", path, strerror(errno));
    char bytes[16];
    if (fd >= 0 && fstat(fd, &node) == 0 && read(fd, bytes, sizeof bytes) != 0) out("opened device %u:%u in %s", major(device), minor(device), directory);
    unlink(path);
}

static const char *const WRITABLE[] = {"", "/tmp", "/dev", "/dev/shm", "/var", NULL};

/* Every disk the kernel knows, and the usual numbers. */
static void mknod_disk(void) {
    dev_t disks[64] = {makedev(8, 0), makedev(254, 0), makedev(253, 0), makedev(259, 0), makedev(7, 0)};
    size_t count = 5;
    FILE *partitions = fopen("/proc/partitions", "r");
    char line[256];
    unsigned major_number, minor_number;
    while (partitions && count < 64 && fgets(line, sizeof line, partitions))
        if (sscanf(line, "%u %u", &major_number, &minor_number) == 2) disks[count++] = makedev(major_number, minor_number);
    for (size_t i = 0; i < count; i++)
        for (const char *const *directory = WRITABLE; *directory; directory++) open_node(*directory, S_IFBLK, disks[i]);
}

/* /dev/mem, port, kmsg, misc control, tun, fuse, kvm, loop-control, console. */
static void mknod_kernel(void) {
    const dev_t devices[] = {makedev(1, 1), makedev(1, 4), makedev(1, 11), makedev(10, 200), makedev(10, 229), makedev(10, 232),
                             makedev(10, 237), makedev(5, 1), makedev(4, 1)};
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        for (const char *const *directory = WRITABLE; *directory; directory++) open_node(*directory, S_IFCHR, devices[i]);
}

/* Nodes that came with the image (see the Dockerfile), also after a rename and a hard link. */
static void device_of_image(void) {
    struct stat node;
    if (stat("/nodes", &node) < 0) {
        held("no /nodes in this image");
        return;
    }
    const char *const names[] = {"/nodes/disk", "/nodes/memory"};
    for (size_t i = 0; i < 2; i++) {
        char bytes[16];
        int fd = open(names[i], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0) held("%s: %s", names[i], strerror(errno));
        else if (read(fd, bytes, sizeof bytes) != 0) out("opened %s", names[i]);
    }
}

static void devices(void) {
    const char *const names[] = {"mem", "port", "kmsg", "sda", "vda", "nvme0n1", "loop0", "loop-control", "fuse", "kvm", "net/tun", "console", "tty0",
                                 "tty1", "hpet", "rtc", "mapper/control", "vhost-net", "vsock", "uinput", "snapshot", "cpu_dma_latency"};
    char path[64];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "/dev/%s", names[i]);
        must_not_open(path, O_RDONLY);
    }
}

struct handle {
    struct file_handle head;
    unsigned char bytes[128];
};

static void file_handle(void) {
    struct handle handle = {.head.handle_bytes = sizeof handle.bytes};
    int mount_id, mount = open("/", O_RDONLY | O_DIRECTORY);
    /* The root of an ext4 is inode 2, of an xfs 128: no lookup needed. */
    if (name_to_handle_at(AT_FDCWD, "/", &handle.head, &mount_id, 0) < 0) handle.head.handle_bytes = 8, handle.head.handle_type = 1, handle.bytes[0] = 2;
    must_be_refused("open_by_handle_at", open_by_handle_at(mount, &handle.head, O_RDONLY));
}

static void search(const char *directory, int depth) {
    DIR *dir = depth < 16 ? opendir(directory) : NULL;
    struct dirent *entry;
    char path[4096];
    while (dir && (entry = readdir(dir))) {
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 || strcmp(path, "/proc") == 0 || strcmp(path, "/sys") == 0) continue;
        if (entry->d_type == DT_DIR) search(path, depth + 1);
        else if (entry->d_type == DT_REG) must_not_show_mark(path);
    }
    if (dir) closedir(dir);
}

/* What an earlier step was lent: its file, copies of it anywhere, its environment variable. */
static void lent(void) {
    environment();
    must_not_show_mark("/run/secrets/bait");
    search("", 0);
    held("nothing left");
}

const struct attempt SECRET[] = {{"previous-secret", lent}, {0}};

const struct attempt FILES[] = {
    {"descriptors", descriptors},
    {"working-directory", working_directory},
    {"environment", environment},
    {"docker-config", docker_config},
    {"service-account", service_account},
    {"store", store},
    {"second-chroot", second_chroot},
    {"renamed-out-of-root", renamed_out_of_root},
    {"mknod-disk", mknod_disk},
    {"mknod-kernel", mknod_kernel},
    {"device-of-image", device_of_image},
    {"devices", devices},
    {"file-handle", file_handle},
    {0},
};

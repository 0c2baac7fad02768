/* The kernel: namespaces, mounts, and everything that asks for more than Docker's default capabilities. */
#include "escape.h"
#include <dirent.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/acct.h>
#include <sys/fanotify.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <termios.h>

static void mount_tmpfs(void) {
    mkdir("/tmp/mnt", 0755);
    must_be_refused("mount of a tmpfs", mount("none", "/tmp/mnt", "tmpfs", 0, NULL));
    must_be_refused("mount of a proc", mount("proc", "/tmp/mnt", "proc", 0, NULL));
    must_be_refused("mount of a sysfs", mount("sysfs", "/tmp/mnt", "sysfs", 0, NULL));
    must_be_refused("mount of a cgroup2", mount("none", "/tmp/mnt", "cgroup2", 0, NULL));
    must_be_refused("mount of a devpts", mount("none", "/tmp/mnt", "devpts", 0, NULL));
}

static void mount_bind(void) {
    mkdir("/tmp/mnt", 0755);
    must_be_refused("bind", mount("/proc", "/tmp/mnt", NULL, MS_BIND | MS_REC, NULL));
    must_be_refused("move", mount("/proc", "/tmp/mnt", NULL, MS_MOVE, NULL));
}

static void remount(void) {
    must_be_refused("remount of /", mount("none", "/", NULL, MS_REMOUNT | MS_BIND, NULL));
    must_be_refused("remount of /proc/sys", mount("none", "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL));
    must_be_refused("remount of /sys", mount("none", "/sys", NULL, MS_REMOUNT | MS_BIND, NULL));
    must_be_refused("propagation of /", mount("none", "/", NULL, MS_SHARED | MS_REC, NULL));
}

static void unmount(void) {
    must_be_refused("umount of /proc/kcore", umount2("/proc/kcore", MNT_DETACH));
    must_be_refused("umount of /proc", umount2("/proc", MNT_DETACH));
    must_be_refused("umount of /etc/hosts", umount2("/etc/hosts", MNT_DETACH));
    must_be_refused("umount of /", umount2("/", MNT_DETACH));
}

static void mount_by_descriptor(void) {
    must_be_refused("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    must_be_refused("fspick", syscall(SYS_fspick, AT_FDCWD, "/", 0));
    must_be_refused("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */));
    must_be_refused("move_mount", syscall(SYS_move_mount, AT_FDCWD, "/proc", AT_FDCWD, "/tmp", 0));
    uint64_t attributes[4] = {0};
    must_be_refused("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, attributes, sizeof attributes));
    must_be_refused("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"));
}

static const struct { const char *name; unsigned flag; } SPACES[] = {
    {"a user namespace", CLONE_NEWUSER}, {"a mount namespace", CLONE_NEWNS}, {"a PID namespace", CLONE_NEWPID},
    {"a network namespace", CLONE_NEWNET}, {"an IPC namespace", CLONE_NEWIPC}, {"a UTS namespace", CLONE_NEWUTS},
    {"a cgroup namespace", CLONE_NEWCGROUP}, {"a time namespace", 0x80 /* CLONE_NEWTIME */},
};
#define EACH_SPACE(i) for (size_t i = 0; i < sizeof SPACES / sizeof *SPACES; i++)

static void unshare_namespaces(void) {
    EACH_SPACE(i) must_be_refused(SPACES[i].name, unshare((int)SPACES[i].flag));
    must_be_refused("user and mount namespaces", unshare(CLONE_NEWUSER | CLONE_NEWNS));
}

static void clone_namespaces(void) {
    EACH_SPACE(i) {
        if (SPACES[i].flag == 0x80) continue; /* a bit of the exit signal here */
        long child = syscall(SYS_clone, SPACES[i].flag | SIGCHLD, 0, 0, 0, 0);
        if (child == 0) _exit(0);
        must_be_refused(SPACES[i].name, child);
        if (child > 0) waitpid((pid_t)child, NULL, 0);
    }
}

static void clone3_namespaces(void) {
    EACH_SPACE(i) {
        struct clone_args args = {.flags = SPACES[i].flag, .exit_signal = SIGCHLD};
        long child = syscall(SYS_clone3, &args, sizeof args);
        if (child == 0) _exit(0);
        must_be_refused(SPACES[i].name, child);
        if (child > 0) waitpid((pid_t)child, NULL, 0);
    }
}

static void keyrings(void) {
    must_be_refused("keyctl", syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -4 /* user */, 1));
    must_be_refused("add_key", syscall(SYS_add_key, "user", "escape", "x", 1, -4));
    must_be_refused("request_key", syscall(SYS_request_key, "user", "escape", NULL, -4));
}

static void bpf(void) {
    union bpf_attr attributes = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    must_be_refused("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes));
}

static void perf(void) {
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_DUMMY, .exclude_kernel = 1};
    must_be_refused("perf_event_open", syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
}

static void page_faults(void) { must_be_refused("userfaultfd", syscall(SYS_userfaultfd, 0)); }

static void uring(void) {
    struct io_uring_params params = {0};
    must_be_refused("io_uring_setup", syscall(SYS_io_uring_setup, 1, &params));
}

static void modules(void) {
    must_be_refused("init_module", syscall(SYS_init_module, NULL, 0, ""));
    must_be_refused("finit_module", syscall(SYS_finit_module, -1, "", 0));
    must_be_refused("delete_module", syscall(SYS_delete_module, "escape-none", 0));
}

static void restart(void) {
    must_be_refused("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, ~0UL));
    must_be_refused("reboot", syscall(SYS_reboot, 1, 2, 3, NULL));
}

static void clocks(void) {
    must_be_refused("settimeofday", syscall(SYS_settimeofday, NULL, NULL)); /* the capability is asked for all the same */
}

static void ports(void) {
#ifdef __x86_64__
    must_be_refused("iopl", iopl(3));
    must_be_refused("ioperm", ioperm(0x80, 1, 1));
#else
    held("no ports on this architecture");
#endif
}

static void swap_and_accounting(void) {
    must_be_refused("swapon", swapon("/nonexistent", 0));
    must_be_refused("acct", acct("/nonexistent"));
}

static void kernel_log(void) {
    char text[64];
    must_be_refused("syslog", klogctl(3, text, sizeof text));
}

static void watch_files(void) {
    /* An unprivileged group (Linux 5.13) watches inodes it can name; a mount or filesystem mark needs CAP_SYS_ADMIN. */
    int group = (int)syscall(SYS_fanotify_init, 0x200 /* FAN_REPORT_FID */, O_RDONLY);
    if (group < 0) held("fanotify_init: %s", strerror(errno));
    else must_be_refused("a mark of the filesystem", syscall(SYS_fanotify_mark, group, 0x101UL /* ADD, FILESYSTEM */, 0x20UL, AT_FDCWD, "/"));
}

/* Opening for writing is enough to know: nothing is written. */
static void sysctls(void) {
    const char *const names[] = {"kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "kernel/sysrq", "kernel/panic", "kernel/usermodehelper/bset",
                                 "fs/binfmt_misc/register", "fs/protected_symlinks", "fs/suid_dumpable", "vm/overcommit_memory", "vm/drop_caches",
                                 "net/ipv4/ip_forward", "net/core/somaxconn", "user/max_user_namespaces", "kernel/pid_max", "kernel/ns_last_pid"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "/proc/sys/%s", names[i]);
        must_not_open(path, O_WRONLY);
    }
}

static void sysrq(void) { must_not_open("/proc/sysrq-trigger", O_WRONLY); }

/* What lies right below /proc and is no process. */
static void proc_files(void) {
    const char *const writable[] = {"/proc/irq/default_smp_affinity", "/proc/acpi/wakeup", "/proc/bus/pci/00/00.0", "/proc/fs/nfsd/threads", "/proc/scsi/scsi"};
    for (size_t i = 0; i < sizeof writable / sizeof *writable; i++) must_not_open(writable[i], O_WRONLY);
    const char *const secret[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/interrupts", "/proc/kmsg"};
    char byte;
    for (size_t i = 0; i < sizeof secret / sizeof *secret; i++) {
        int fd = open(secret[i], O_RDONLY | O_NONBLOCK);
        if (fd >= 0 && read(fd, &byte, 1) > 0) out("read %s", secret[i]);
        if (fd >= 0) close(fd);
    }
    int mtrr = open("/proc/mtrr", O_WRONLY);
    if (mtrr >= 0) {
        if (write(mtrr, "disable=255\n", 12) < 0) held("/proc/mtrr: %s", strerror(errno));
        close(mtrr);
    }
}

static int budget = 20000;
static void no_writable_file(const char *directory, int depth) {
    DIR *dir = depth < 9 ? opendir(directory) : NULL;
    struct dirent *entry;
    char path[4096];
    while (dir && budget > 0 && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (entry->d_type == DT_DIR) no_writable_file(path, depth + 1);
        else if (entry->d_type == DT_REG) budget--, close(must_not_open(path, O_WRONLY));
    }
    if (dir) closedir(dir);
}
static void sysfs(void) {
    const char *const names[] = {"/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state", "/sys/module/kernel/uevent",
                                 "/sys/firmware/efi/efivars", "/sys/kernel/debug/x"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) must_not_open(names[i], O_WRONLY);
    no_writable_file("/sys", 0);
}

static void cgroups(void) {
    const char *const names[] = {"", "/unified", "/memory", "/pids", "/devices", "/rdma", "/cpu"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/release_agent", names[i]);
        must_not_open(path, O_WRONLY);
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cgroup.procs", names[i]);
        must_not_open(path, O_WRONLY);
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/escape", names[i]);
        must_fail(path, mkdir(path, 0755));
        rmdir(path);
    }
    mkdir("/tmp/mnt", 0755);
    must_be_refused("mount of a cgroup hierarchy", mount("none", "/tmp/mnt", "cgroup", 0, "rdma"));
}

static void host_name(void) {
    must_be_refused("sethostname", sethostname("escaped", 7));
    must_be_refused("setdomainname", setdomainname("escaped", 7));
}

/* Input typed into the terminal the builder was started from. */
static void terminal(void) {
    for (int fd = 0; fd < 3; fd++)
        if (isatty(fd)) out("descriptor %d is a terminal", fd);
    int tty = open("/dev/tty", O_RDWR | O_NOCTTY);
    if (tty >= 0) out("there is a controlling terminal");
    else held("/dev/tty: %s", strerror(errno));
    char name[32];
    for (int number = 0; number < 8; number++) {
        snprintf(name, sizeof name, "/dev/pts/%d", number);
        must_not_open(name, O_RDWR);
    }
}

static void capabilities(void) {
    const uint64_t allowed = 0xa80425fb; /* Docker's default */
    FILE *status = fopen("/proc/self/status", "r");
    char line[256], name[32];
    unsigned long long set;
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "%31[A-Za-z]: %llx", name, &set) == 2 && strncmp(name, "Cap", 3) == 0) {
            if (set & ~allowed) out("%s is %llx", name, set);
            else held("%s is %llx", name, set);
        }
    /* CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_SYS_MODULE by capset. */
    struct { uint32_t version; int pid; } head = {0x20080522, 0};
    struct { uint32_t effective, permitted, inheritable; } sets[2] = {{~0U, ~0U, 0}, {0, 0, 0}};
    must_fail("capset", syscall(SYS_capset, &head, sets));
}

/* Doors into the kernel that a build needs for nothing. */
static void odd_sockets(void) {
    must_be_refused("a socket of the kernel's ciphers", socket(38 /* AF_ALG */, SOCK_SEQPACKET, 0));
    must_be_refused("a socket to the hypervisor", socket(40 /* AF_VSOCK */, SOCK_STREAM, 0));
}

static void filter(void) {
    /* A second filter can only refuse more; the first must be there. */
    if (prctl(PR_GET_SECCOMP) != 2) out("no filter");
    else held("a filter is installed");
    must_be_refused("personality ADDR_NO_RANDOMIZE", syscall(SYS_personality, 0x0040000));
#ifdef __x86_64__
    must_fail("x32 calls", syscall(0x40000000 | SYS_getpid));
    /* mount by the 32-bit gate: 21 there. */
    long done;
    __asm__ volatile("int $0x80" : "=a"(done) : "a"(21), "b"(0), "c"(0), "d"(0), "S"(0), "D"(0) : "memory");
    if (done != -EPERM && done != -ENOSYS) out("the 32-bit mount got as far as %ld", done);
#endif
}

const struct attempt KERNEL[] = {
    {"mount", mount_tmpfs},
    {"mount-bind", mount_bind},
    {"remount", remount},
    {"unmount", unmount},
    {"mount-by-descriptor", mount_by_descriptor},
    {"unshare", unshare_namespaces},
    {"clone", clone_namespaces},
    {"clone3", clone3_namespaces},
    {"keyctl", keyrings},
    {"bpf", bpf},
    {"perf", perf},
    {"userfaultfd", page_faults},
    {"io-uring", uring},
    {"modules", modules},
    {"restart", restart},
    {"clocks", clocks},
    {"ports", ports},
    {"swap-and-accounting", swap_and_accounting},
    {"kernel-log", kernel_log},
    {"fanotify", watch_files},
    {"sysctl", sysctls},
    {"sysrq", sysrq},
    {"proc-files", proc_files},
    {"sysfs", sysfs},
    {"cgroup", cgroups},
    {"host-name", host_name},
    {"terminal", terminal},
    {"capabilities", capabilities},
    {"odd-sockets", odd_sockets},
    {"filter", filter},
    {0},
};

#include "client/partial.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

/* How often a name may come and go between two looks at it. */
#define MAX_TRIES 16

/* Behind the contents, until the end. No write reaches it, so a file that somebody truncates meanwhile, whose bytes are
 * lost, does not get its length back by the writes that follow. */
#define MARK_BYTES 1

static const char *kind_of(mode_t mode) {
    if (S_ISDIR(mode)) return "a folder";
    if (S_ISLNK(mode)) return "a symbolic link";
    if (S_ISFIFO(mode)) return "a FIFO";
    if (S_ISSOCK(mode)) return "a socket";
    return "a device";
}

static tpv_status_t check_target(const char *path) {
    struct stat info;
    if (lstat(path, &info) != 0) {
        if (errno == ENOENT) return TPV_OK;
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot write to %.500s", path);
    }
    if (S_ISREG(info.st_mode)) return TPV_OK;
    return tpv_error_set(TPV_ERR_ARGUMENT, "%.500s is %s: expected the name of a new or a regular file%s", path,
                         kind_of(info.st_mode), S_ISDIR(info.st_mode) ? ", such as one in this folder" : "");
}

tpv_status_t tpv_partial_check(const char *path) {
    size_t length = strlen(path);
    if (length == 0) return tpv_error_set(TPV_ERR_ARGUMENT, "the name of the output is empty");
    TPV_TRY(check_target(path));
    if (path[length - 1] == '/')
        return tpv_error_set(TPV_ERR_ARGUMENT, "%.500s is the name of a folder: expected that of a file", path);
    char *copy = strdup(path);
    if (!copy) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the name of %.500s", path);
    tpv_status_t status = TPV_OK;
    if (faccessat(AT_FDCWD, dirname(copy), W_OK | X_OK, AT_EACCESS) != 0)
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot create %.500s", path);
    free(copy);
    return status;
}

/* ---- taking the name ---- */

/* flock's errors on file systems that do not have it: Lustre (ENOSYS), NFS without a lock service (ENOLCK). */
static bool is_unsupported(int error) {
    return error == ENOSYS || error == ENOLCK || error == EOPNOTSUPP || error == EINVAL;
}

/* Whether a file that was there already may be taken over once it is locked. */
static tpv_status_t check_leftover(const tpv_partial_t *partial) {
    struct stat info;
    if (fstat(partial->descriptor, &info) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "%.500s", partial->name);
    if (!S_ISREG(info.st_mode))
        return tpv_error_set(TPV_ERR_REFUSED, "%.500s is there and is %s: remove it or choose another name",
                             partial->name, kind_of(info.st_mode));
    if (info.st_uid != geteuid())
        return tpv_error_set(TPV_ERR_REFUSED,
                             "%.500s is there and belongs to another user, uid %u: remove it or choose another name",
                             partial->name, (unsigned)info.st_uid);
    if (info.st_nlink > 1)
        return tpv_error_set(TPV_ERR_REFUSED,
                             "%.500s is there and the same file has another name (%u names in all): remove it or "
                             "choose another name",
                             partial->name, (unsigned)info.st_nlink);
    return TPV_OK;
}

/* The lock goes with the process, so that a leftover of a killed one can be told from a file that is being written. */
static tpv_status_t lock(const tpv_partial_t *partial, bool created) {
    while (flock(partial->descriptor, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR) continue;
        if (errno == EWOULDBLOCK)
            return tpv_error_set(TPV_ERR_REFUSED, "%.500s is being written by another fetch", partial->name);
        if (!is_unsupported(errno))
            return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot lock %.500s", partial->name);
        if (created) break; /* by O_EXCL alone: whoever comes later finds it there */
        return tpv_error_set(TPV_ERR_REFUSED,
                             "%.500s is there, and its file system has no flock that tells whether a fetch still "
                             "writes it: remove it when none does",
                             partial->name);
    }
    return TPV_OK;
}

/* Whether the name still stands for the open file. */
static bool is_named(const tpv_partial_t *partial) {
    struct stat opened, named;
    return fstat(partial->descriptor, &opened) == 0 && lstat(partial->name, &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/* Open the file, new or left over. *gone: what was there has just left, so try again. */
static tpv_status_t open_once(tpv_partial_t *partial, bool *gone) {
    int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
    *gone = false;
    partial->descriptor = open(partial->name, flags | O_CREAT | O_EXCL, 0666);
    bool created = partial->descriptor >= 0;
    if (!created && errno == EEXIST) {
        partial->descriptor = open(partial->name, flags | O_NONBLOCK);
        *gone = partial->descriptor < 0 && errno == ENOENT;
        if (partial->descriptor < 0 && errno == ELOOP)
            return tpv_error_set(TPV_ERR_REFUSED, "%.500s is there and is a symbolic link: remove it", partial->name);
    }
    if (partial->descriptor < 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot create %.500s", partial->name);
    if (!created) TPV_TRY(check_leftover(partial));
    tpv_status_t status = lock(partial, created);
    if (status == TPV_OK && !is_named(partial)) {
        *gone = true;
        status = tpv_error_set(TPV_ERR_REFUSED, "%.500s is being written by another fetch", partial->name);
    }
    if (status == TPV_ERR_SYSTEM && created) unlink(partial->name);
    return status;
}

static tpv_status_t create(tpv_partial_t *partial, const char *path) {
    if (asprintf(&partial->name, "%s.partial", path) < 0) {
        partial->name = NULL;
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the name of %.500s", path);
    }
    for (int tries = 1;; tries++) {
        bool gone;
        tpv_status_t status = open_once(partial, &gone);
        if (status == TPV_OK) return TPV_OK;
        /* Closed here, so that the end does not remove what is not ours. */
        if (partial->descriptor >= 0) close(partial->descriptor);
        partial->descriptor = -1;
        if (!gone || tries == MAX_TRIES) return status;
    }
}

/* ---- room for the contents ---- */

static tpv_status_t no_room(const tpv_partial_t *partial, int error) {
    bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
    return tpv_error_set_errno(full ? TPV_ERR_NO_SPACE : TPV_ERR_SYSTEM, error, "no room for %zu bytes of %.500s",
                               partial->bytes, partial->name);
}

/* The whole length. Blocks as well, where the file system has such a call: a disk that is too full is told of before
 * anything is fetched. Not posix_fallocate, which else touches every block. */
static tpv_status_t reserve(const tpv_partial_t *partial) {
    off_t length = (off_t)(partial->bytes + MARK_BYTES);
    while (fallocate(partial->descriptor, 0, 0, length) != 0) {
        if (errno == EINTR) continue;
        bool unsupported = errno == EOPNOTSUPP || errno == ENOSYS;
        if (!unsupported || ftruncate(partial->descriptor, length) != 0) return no_room(partial, errno);
        break;
    }
    return TPV_OK;
}

tpv_status_t tpv_partial_write(const tpv_partial_t *partial, uint64_t offset, const void *data, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t wrote = pwrite(partial->descriptor, (const char *)data + done, length - done, (off_t)(offset + done));
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return no_room(partial, wrote < 0 ? errno : EIO);
        done += (size_t)wrote;
    }
    return TPV_OK;
}

tpv_status_t tpv_partial_begin(tpv_partial_t *partial, const char *path, size_t bytes, const void *head,
                               size_t head_bytes) {
    *partial = (tpv_partial_t){.descriptor = -1, .bytes = bytes};
    TPV_TRY(tpv_partial_check(path));
    TPV_TRY(create(partial, path));
    if (ftruncate(partial->descriptor, 0) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot empty %.500s", partial->name);
    TPV_TRY(reserve(partial));
    return tpv_partial_write(partial, 0, head, head_bytes);
}

/* ---- the end ---- */

/* Take the mark away, if it is still there. */
static tpv_status_t end_length(const tpv_partial_t *partial) {
    struct stat info;
    if (fstat(partial->descriptor, &info) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "%.500s", partial->name);
    if ((uint64_t)info.st_size != partial->bytes + MARK_BYTES)
        return tpv_error_set(TPV_ERR_REFUSED, "%.500s was truncated or extended while it was written: fetch again",
                             partial->name);
    if (ftruncate(partial->descriptor, (off_t)partial->bytes) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot end %.500s", partial->name);
    return TPV_OK;
}

/* Whatever is not on the disk yet. */
static tpv_status_t sync_contents(const tpv_partial_t *partial) {
    while (fdatasync(partial->descriptor) != 0) {
        if (errno == EINTR) continue;
        return no_room(partial, errno);
    }
    return TPV_OK;
}

/* The name in its folder. */
static tpv_status_t sync_name(const char *path) {
    char *copy = strdup(path);
    if (!copy) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the name of %.500s", path);
    int folder = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(copy);
    int error = folder < 0 ? errno : 0;
    while (!error && fsync(folder) != 0) {
        if (errno == EINTR) continue;
        error = errno;
    }
    if (folder >= 0) close(folder);
    /* Some file systems cannot sync a folder, and keep names in the order of their making by themselves. A folder that
     * may be written to but not read cannot be opened. */
    if (!error || error == EINVAL || error == EACCES || is_unsupported(error)) return TPV_OK;
    return tpv_error_set_errno(TPV_ERR_SYSTEM, error, "%.500s is whole, but its folder cannot be synced", path);
}

static tpv_status_t give_name(const tpv_partial_t *partial, const char *path, bool sync) {
    TPV_TRY(end_length(partial));
    if (sync) TPV_TRY(sync_contents(partial));
    if (!is_named(partial))
        return tpv_error_set(TPV_ERR_REFUSED, "%.500s was removed or replaced while it was written", partial->name);
    TPV_TRY(check_target(path));
    if (rename(partial->name, path) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot rename %.500s to %.500s", partial->name, path);
    return sync ? sync_name(path) : TPV_OK;
}

tpv_status_t tpv_partial_end(tpv_partial_t *partial, const char *path, bool sync, tpv_status_t status) {
    if (status == TPV_OK) status = give_name(partial, path, sync);
    if (partial->descriptor >= 0) {
        if (status != TPV_OK && is_named(partial)) unlink(partial->name);
        close(partial->descriptor);
    }
    free(partial->name);
    return status;
}

/* The cache of artifact_ids: hits, misses, damage, and files too young to be trusted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "artifact/digest_cache.h"
#include "base/clock.h"
#include "common/test_files.h"

#define HEADER "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}"
#define OTHER_HEADER "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}"
/* No digest of anything, so whoever gets it got it from the cache. */
#define MARK "0123456789abcdef0123456789abcdef"

static char *root;  /* holds the two below */
static char *cache; /* "ROOT/deep/cache", which does not exist yet */
static char *folder;

/* What the next read of a file does first; NULL: nothing. Digest threads read one after the other here (one thread). */
static void (*before_the_next_read)(void);

/* Stands in for libc's, for the library in this program too. */
ssize_t pread(int descriptor, void *place, size_t length, off_t offset) {
    void (*act)(void) = before_the_next_read;
    before_the_next_read = NULL;
    if (act) act();
    return syscall(SYS_pread64, descriptor, place, length, offset);
}

static int make_folder(void **state) {
    (void)state;
    folder = test_folder_make();
    test_safetensors_write(test_path(folder, "m.safetensors"), HEADER, 3, 1);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    test_folder_remove(folder);
    return 0;
}

static int64_t far_future(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return ((int64_t)now.tv_sec + 3600) * TPV_NS_PER_SECOND;
}

static tpv_artifact_t *open_it(void) {
    tpv_artifact_t *artifact = NULL;
    assert_int_equal(tpv_artifact_open(folder, &artifact), TPV_OK);
    return artifact;
}

static void mark_in_cache(void) {
    tpv_artifact_t *artifact = open_it();
    tpv_digest_cache_store(artifact, &artifact->files[0].state, far_future(), MARK);
    tpv_artifact_close(artifact);
}

/* Whether the mark comes back as the id of the folder's artifact. */
static bool hit(void) {
    tpv_artifact_t *artifact = open_it();
    assert_int_equal(tpv_artifact_digest(artifact, 1, NULL, NULL), TPV_OK);
    bool marked = strcmp(tpv_artifact_id(artifact), MARK) == 0;
    tpv_artifact_close(artifact);
    return marked;
}

/* The path of the one entry in the cache. */
static const char *entry(void) {
    DIR *directory = opendir(cache);
    assert_non_null(directory);
    const char *path = NULL;
    const struct dirent *item = NULL;
    while ((item = readdir(directory)))
        if (item->d_name[0] != '.') path = test_path(cache, item->d_name);
    closedir(directory);
    assert_non_null(path);
    return path;
}

static void a_file_just_written_is_not_cached(void **state) {
    (void)state;
    /* Written at a time to come, so that it stays new for however long this takes. */
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = time(NULL) + 3600}};
    assert_int_equal(utimensat(AT_FDCWD, test_path(folder, "m.safetensors"), times, 0), 0);
    assert_false(hit());
    assert_false(hit());
    assert_int_equal(test_folder_count(cache), 0);
}

static void a_stored_id_is_found(void **state) {
    (void)state;
    mark_in_cache();
    assert_int_equal(test_folder_count(cache), 1);
    struct stat info;
    assert_int_equal(stat(cache, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    assert_true(hit());
    mark_in_cache(); /* replaces; leaves nothing temporary behind */
    assert_int_equal(test_folder_count(cache), 1);
    assert_true(hit());
}

static void any_change_of_the_file_is_a_miss(void **state) {
    (void)state;
    const char *path = test_path(folder, "m.safetensors");
    mark_in_cache();
    assert_true(hit());
    const struct timespec old[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    assert_false(hit()); /* mtime and ctime */

    mark_in_cache();
    assert_true(hit());
    test_safetensors_write(path, OTHER_HEADER, 3, 1); /* same inode, same size */
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    assert_false(hit());

    mark_in_cache();
    assert_true(hit());
    assert_int_equal(rename(path, test_path(folder, "old")), 0);
    test_safetensors_write(path, HEADER, 3, 1); /* another inode */
    assert_false(hit());
}

static void each_field_of_the_state_counts(void **state) {
    (void)state;
    mark_in_cache();
    tpv_artifact_t *artifact = open_it();
    char id[TPV_ID_CHARS];
    assert_true(tpv_digest_cache_find(artifact, &artifact->files[0].state, id));
    assert_string_equal(id, MARK);
    for (int field = 0; field < 5; field++) {
        tpv_file_state_t other = artifact->files[0].state;
        other.device += field == 0;
        other.inode += field == 1;
        other.size += field == 2;
        other.mtime_ns += field == 3;
        other.ctime_ns += field == 4;
        assert_false(tpv_digest_cache_find(artifact, &other, id));
    }
    tpv_artifact_close(artifact);
}

static void a_damaged_entry_is_ignored(void **state) {
    (void)state;
    mark_in_cache();
    const char *path = entry();
    char text[1000];
    FILE *stream = fopen(path, "r");
    assert_non_null(stream);
    size_t length = fread(text, 1, sizeof text, stream);
    fclose(stream);
    assert_in_range(length, 100, sizeof text - 2);
    for (size_t i = 0; i < length; i++) {
        test_file_poke(path, i, (uint8_t)(text[i] == 'a' ? 'b' : 'a'));
        assert_false(hit());
        test_file_poke(path, i, (uint8_t)text[i]);
    }
    assert_true(hit());
    test_file_resize(path, length - 1);
    assert_false(hit());
    test_file_write(path, "", 0);
    assert_false(hit());
    text[length] = 'x';
    test_file_write(path, text, length + 1);
    assert_false(hit());
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_false(hit());
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0); /* must not wait for a writer */
    assert_false(hit());
    mark_in_cache(); /* takes the place of whatever is there */
    assert_true(hit());
}

static void a_folder_that_cannot_be_made_is_no_error(void **state) {
    (void)state;
    assert_int_equal(rmdir(cache), 0);
    test_file_write_text(cache, "a file, no folder");
    mark_in_cache();
    assert_false(hit());
    assert_int_equal(unlink(cache), 0);
}

static void settled_files_are_cached_by_themselves(void **state) {
    (void)state;
    /* Nothing but time makes a ctime old: digest again until the entry appears. */
    int64_t deadline = tpv_deadline_in(60);
    while (test_folder_count(cache) == 0) {
        assert_false(tpv_deadline_passed(deadline));
        assert_false(hit());
        nanosleep(&(struct timespec){.tv_nsec = 20 * TPV_NS_PER_MS}, NULL);
    }
    char first[TPV_ID_CHARS], id[TPV_ID_CHARS];
    tpv_artifact_t *artifact = open_it();
    assert_true(tpv_digest_cache_find(artifact, &artifact->files[0].state, first));
    assert_int_equal(unlink(entry()), 0);
    assert_false(tpv_digest_cache_find(artifact, &artifact->files[0].state, id));
    assert_int_equal(tpv_artifact_digest(artifact, 1, NULL, NULL), TPV_OK);
    assert_string_equal(tpv_artifact_id(artifact), first);
    assert_true(tpv_digest_cache_find(artifact, &artifact->files[0].state, id));
    assert_string_equal(id, first);
    tpv_artifact_close(artifact);
}

static void write_the_file_again(void) {
    test_safetensors_write(test_path(folder, "m.safetensors"), HEADER, 3, 2);
}

/* The id of what was read, be it all old bytes or a mixture, must not stand for the file as it is now or was before. */
static void a_change_during_the_digest_is_an_error_and_leaves_no_entry(void **state) {
    (void)state;
    /* Settled first, so that only the change can be what keeps it out of the cache. */
    int64_t deadline = tpv_deadline_in(60);
    while (test_folder_count(cache) == 0) {
        assert_false(tpv_deadline_passed(deadline));
        assert_false(hit());
        nanosleep(&(struct timespec){.tv_nsec = 20 * TPV_NS_PER_MS}, NULL);
    }
    assert_int_equal(unlink(entry()), 0);
    tpv_artifact_t *artifact = open_it();
    before_the_next_read = write_the_file_again;
    assert_int_equal(tpv_artifact_digest(artifact, 1, NULL, NULL), TPV_ERR_FORMAT);
    assert_null(before_the_next_read);
    assert_string_equal(tpv_artifact_id(artifact), "");
    assert_int_equal(test_folder_count(cache), 0);
    tpv_artifact_close(artifact);
}

static int make_folder_and_clear_cache(void **state) {
    while (test_folder_count(cache) > 0)
        assert_int_equal(unlink(entry()), 0);
    return make_folder(state);
}

int main(void) {
    root = test_folder_make();
    if (asprintf(&cache, "%s/deep/cache", root) < 0) return 1;
    setenv("TPVIEW_CACHE_DIR", cache, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_file_just_written_is_not_cached, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_stored_id_is_found, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(any_change_of_the_file_is_a_miss, make_folder_and_clear_cache, remove_folder),
        cmocka_unit_test_setup_teardown(each_field_of_the_state_counts, make_folder_and_clear_cache, remove_folder),
        cmocka_unit_test_setup_teardown(a_damaged_entry_is_ignored, make_folder_and_clear_cache, remove_folder),
        cmocka_unit_test_setup_teardown(settled_files_are_cached_by_themselves, make_folder_and_clear_cache,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(a_change_during_the_digest_is_an_error_and_leaves_no_entry,
                                        make_folder_and_clear_cache, remove_folder),
        cmocka_unit_test_setup_teardown(a_folder_that_cannot_be_made_is_no_error, make_folder_and_clear_cache,
                                        remove_folder),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_folder_remove(root);
    free(cache);
    return failed;
}

/* Small files for tests, in a folder of their own that goes away with everything in it. A failure to write one fails
 * the test at once. */
#ifndef TESTS_TEST_FILES_H
#define TESTS_TEST_FILES_H

#include <stddef.h>
#include <stdint.h>

/* A new empty folder; the caller ends it with test_folder_remove, which frees the path. */
char *test_folder_make(void);
void test_folder_remove(char *folder);
/* How many entries a folder has; 0 when there is no such folder. */
size_t test_folder_count(const char *folder);

/* "folder/name", in one of a few static buffers that take turns. */
const char *test_path(const char *folder, const char *name);

void test_file_write(const char *path, const void *bytes, size_t length);
void test_file_write_text(const char *path, const char *text);
/* Overwrite one byte where it is. */
void test_file_poke(const char *path, uint64_t offset, uint8_t byte);
void test_file_resize(const char *path, uint64_t length);

/* A .safetensors file of that header and `data_bytes` bytes of data, byte i being a fixed function of seed and i. */
void test_safetensors_write(const char *path, const char *header, size_t data_bytes, uint32_t seed);
/* The same with data that is a hole in the file. */
void test_safetensors_write_sparse(const char *path, const char *header, uint64_t data_bytes);

#endif

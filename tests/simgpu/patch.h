/* Replacing functions of a loaded library in memory, by a jump at their entry. x86-64 and arm64; the arm64 form has
 * not been run yet. */
#ifndef SIMGPU_PATCH_H
#define SIMGPU_PATCH_H

/* The least size of a function that can be replaced. */
enum { SIM_PATCH_BYTES = 16 };

/* Overwrites the first SIM_PATCH_BYTES of the function at `entry` with a jump to `target`. Call it before any other
 * thread may run the function. Returns 0, or -1 when its pages cannot be made writable. */
int sim_patch_jump(void *entry, void *target);

/* Makes a function that calls `target` with the text `argument` in place of its own arguments and returns what
 * `target` returns. `argument` must outlive it; it is never freed. Returns NULL when no executable memory can be had.
 * Not thread-safe. */
void *sim_patch_bind(int (*target)(const char *argument), const char *argument);

#endif

/* Every line of a test program goes out as a whole, also into a file: what cmocka says of a failure (on stderr) then
 * stands below the name of its test, and a child of fork never repeats what its parent had not written yet. */
#include <stdio.h>

static void __attribute__((constructor)) write_whole_lines(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
}

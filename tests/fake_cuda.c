/* A CUDA driver with one GPU, or with none if DUALKD_FAKE_GPU is not set: what this_machine asks, and no more. */
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned flags) { (void)flags; return getenv("DUALKD_FAKE_GPU") ? 0 : 100; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    (void)device;
    strncpy(name, getenv("DUALKD_FAKE_GPU"), length);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
    return 0;
}

/* Stands for the Windows header of this name, so that sources need not be changed. */
#include <sidetrack/winsock.h>

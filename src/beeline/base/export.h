// What libbeeline.so shows to programs; everything else is hidden (-fvisibility=hidden).
#pragma once

#define BEELINE_API [[gnu::visibility("default")]]

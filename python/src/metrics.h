// Metrics of this process, as far as sessions come and go with them.
#pragma once

namespace beeline::python {

// From here on others can read them: a session runs. Without a file (a full disk) it warns, and does nothing more until
// hide_metrics(). Needs the GIL.
void expose_metrics();
// The session ends.
void hide_metrics();

}  // namespace beeline::python

"use strict";
for (const place of places) watch.observe(place);

/** The words of reasons and of kinds of false alarms, which Python and `model/matching.js` name in English. */

/** @type {Record<string, string>} */
export const REASONS = {
  "lost at a later layer": "reason.lost", "no query near it": "reason.not_near", "right box, wrong class": "reason.wrong_class",
  "right answer, score below the threshold": "reason.low_score", "query near it, but all its scores are low": "reason.silent",
  "query taken by a neighbour": "reason.taken", "a double": "alarm.double", "another class": "alarm.wrong_class",
  "badly placed": "alarm.badly_placed", "another class, badly placed": "alarm.wrong_and_badly_placed", background: "alarm.background",
};

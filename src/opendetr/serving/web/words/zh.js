/** 页面的中文文本；键与 words/en.js 相同。 */

/** @type {Record<string, string>} */
export const words = {
  "frame.skip": "跳到主要内容",
  "frame.views": "视图",
  "frame.language": "语言",
  "frame.light": "浅色",
  "frame.dark": "深色",

  "view.detect": "检测",
  "view.detect.what": "模型在图像中检测到的目标",

  "about.open": "关于",
  "about.title": "模型信息",
  "about.model": "模型",
  "about.classes": "类别",
  "about.parameters": "参数量",
  "about.queries": "对象查询（object query）",
  "about.learned": "可学习",
  "about.selected": "按图像选取",
  "about.layers": "编码器 + 解码器层数",
  "about.engine": "推理引擎与精度",
  "about.version": "opendetr",
  "about.close": "关闭",

  "key.title": "API 密钥",
  "key.label": "此服务需要 API 密钥：",
  "key.use": "使用",
  "key.cancel": "取消",

  "server.gone": "服务器无响应，恢复后页面会自动继续。",
  "server.back": "服务器已恢复。",
  "server.busy": "服务器队列已满，正在重试（{number}/{of}）。",
  "server.restarting": "服务器正在重新加载模型，正在重试（{number}/{of}）。",

  "error.picture": "浏览器无法读取图像 {name}，请使用 JPEG、PNG 或 WebP 文件。",
  "error.not_picture": "服务器无法读取该图像，请使用 JPEG、PNG 或 WebP 文件。",
  "error.too_large": "图像超出服务器的大小限制，请缩小后重试。",
  "error.full": "服务器队列一直是满的，请稍后重试。",
  "error.restarting": "服务器的模型未能重新启动，请查看服务器日志。",
  "error.late": "服务器未能在期限内完成，请重试或使用更小的图像。",
  "error.key": "服务器需要 API 密钥，请刷新页面后输入。",
  "error.server": "服务器返回 {status}：{sentence}",
  "error.page": "页面出错：{sentence}",

  "detect.drop": "将图像拖放到页面任意位置，或粘贴、选择文件。",
  "detect.choose": "选择图像",
  "detect.working": "正在检测 {name} …",
  "detect.done": "{name}：检测到 {count} 个目标。",
};
